"""What the load runs found, as tables: on the terminal, and as `serving-figures.md`."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from load_servers import SERVERS

from lmkit.benching.report import Spread
from lmkit.benching.tables import markdown_table, spread_text

Run = Mapping[str, Any]
Groups = Mapping[tuple[int, str], Sequence[Run]]

TITLES = (
    "server",
    "clients",
    "runs",
    "tokens/s",
    "first token p50",
    "p99",
    "between pieces p50",
    "p99",
)
TITLES += ("answers that ended", "tokens each", "errors", "memory", "client's processor")
OURS, SCALING = ("int4", "int8", "fp32"), 2.5


def row(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the cells of one server at one number of clients: medians of its runs."""
    errors: dict[str, int] = {}
    for run in runs:
        for name, count in run["errors"].items():
            errors[name] = errors.get(name, 0) + count
    ended, asked = (sum(run[key] for run in runs) for key in ("ended", "requests"))
    each = [run["tokens_each"] for run in runs if run["ended"]]
    rates = Spread.of([run["tokens_per_s"] for run in runs])
    return (
        SERVERS[runs[0]["server"]].title,
        str(runs[0]["clients"]),
        str(len(runs)),
        spread_text(rates) if len(runs) > 1 else f"{rates.median:.1f}",
        *(_time([run["first_s"][key] for run in runs]) for key in ("p50", "p99")),
        *(_time([run["gap_s"][key] for run in runs]) for key in ("p50", "p99")),
        f"{ended} of {asked}",
        f"{statistics.median(each):.0f}" if each else "-",
        ", ".join(f"{count} {name}" for name, count in errors.items()) or "none",
        f"{max(run['rss_bytes'] for run in runs) / 1e6:.0f} MB",
        f"{statistics.median(run['client_cpu'] for run in runs):.0%}",
    )


def _time(values: Sequence[Sequence[Any]]) -> str:
    """Return the middle of some quantiles in ms or s; "> 8.0 s" where it was not seen."""
    ordered = sorted(values, key=lambda one: (not one[1], one[0]))
    seconds, seen = ordered[len(ordered) // 2]
    if math.isnan(seconds):
        return "-"
    text = f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
    return text if seen else f"> {text}"


def write(results: Path, docs: Path) -> None:
    """Write the page out of what `run` and `soak` have kept."""
    runs = [json.loads(line) for line in (results / "runs.jsonl").read_text("utf-8").splitlines()]
    groups = {
        (clients, name): found
        for clients in sorted({run["clients"] for run in runs})
        for name in SERVERS
        if (found := [r for r in runs if (r["clients"], r["server"]) == (clients, name)])
    }
    parts = [HEAD, "\n".join(f"- {line}" for line in _when(runs))]
    parts += ["## The numbers to reach", RATES, rates(groups), SCALED, scaling(groups)]
    parts.append("## Every server")
    for clients in dict.fromkeys(clients for clients, _ in groups):
        rows = [row(found) for (n, _), found in groups.items() if n == clients]
        parts.append(markdown_table(TITLES, rows))
    parts += ["## How each server was run", _settings(runs)]
    if (results / "soak.jsonl").is_file():
        kept = (results / "soak.jsonl").read_text("utf-8").splitlines()
        parts += ["## Memory", _soaked([json.loads(line) for line in kept])]
    (docs / "serving-figures.md").write_text("\n\n".join(parts) + "\n", "utf-8")


def rates(groups: Groups) -> str:
    """Return everybody's total tokens a second by the number of clients, and ours over the best of theirs."""
    rate = _medians(groups)
    peers = [name for name in SERVERS if SERVERS[name].process is None and name not in OURS]
    names = [name for name in (*OURS, *peers) if any(name == other for _, other in rate)]
    rows = []
    for clients in dict.fromkeys(clients for clients, _ in rate):
        had = {name: rate[clients, name] for name in names if (clients, name) in rate}
        best = max((had[name] for name in peers if name in had), default=math.nan)
        ratios = [f"{had[name] / best:.1f}x" if name in had else "-" for name in OURS]
        reached = all(had[name] > best for name in OURS if name in had)
        cells = [f"{had[name]:.0f}" if name in had else "-" for name in names]
        rows.append((str(clients), *cells, " / ".join(ratios), "yes" if reached else "no"))
    titles = ("clients", *(SERVERS[name].title for name in names))
    return markdown_table(
        (*titles, "int4 / int8 / fp32 over the best other", "more than all"), rows
    )


def scaling(groups: Groups) -> str:
    """Return our own rate at 16 clients over that at one."""
    rate = _medians(groups)
    rows = []
    for name in OURS:
        for alone in (name, f"{name}-plain"):
            if (1, alone) in rate and (16, name) in rate:
                ratio = rate[16, name] / rate[1, alone]
                figures = (f"{rate[1, alone]:.0f}/s", f"{rate[16, name]:.0f}/s", f"{ratio:.2f}x")
                met = "yes" if ratio >= SCALING else "no"
                rows.append((SERVERS[alone].title, *figures, f"{SCALING:g}x", met))
    return markdown_table(("one client", "1", "16", "ratio", "to reach", "reached"), rows)


def _medians(groups: Groups) -> dict[tuple[int, str], float]:
    return {
        key: statistics.median(run["tokens_per_s"] for run in runs) for key, runs in groups.items()
    }


def _when(runs: Sequence[Run]) -> list[str]:
    """Return the days, machine and settings of the runs, each once."""
    facts: dict[str, dict[str, None]] = {}
    for run in runs:
        machine = run["machine"]
        memory = f", {machine['memory_bytes'] / 1e9:.0f} GB" if machine["memory_bytes"] else ""
        where = f"{machine['processor']}, {machine['cores']} cores{memory}, {machine['system']}"
        told = {
            "measured": run["date"][:10],
            "on": f"{where}, Python {machine['python']}",
            "threads of each server": str(run["threads"]),
            "tokens an answer may have": str(run["max_tokens"]),
            "seconds of a run": f"{run['seconds']:g} with {_clients(run)}"
            + (f" ({run['ramp_s']:g} of them to join)" if "ramp_s" in run else ""),
        }
        for name, text in told.items():
            facts.setdefault(name, {})[text] = None
    return [f"{name}: {'; '.join(each)}" for name, each in facts.items()]


def _clients(run: Run) -> str:
    return f"{run['clients']} client{'s' if run['clients'] > 1 else ''}"


def _settings(runs: Sequence[Run]) -> str:
    """Return each server's versions, command and note."""
    versions = {run["server"]: run["versions"] for run in runs}
    lines = []
    for name, told in versions.items():
        server = SERVERS[name]
        command = " ".join([Path(server.command[0]).name, *server.command[1:]])
        for word, shown in SHOWN.items():
            command = command.replace(word, shown)
        lines.append(f"- **{server.title}** ({told}): `{command}`. {server.note}".rstrip())
    return "\n".join(lines)


def _soaked(runs: Sequence[Run]) -> str:
    seen = 0
    rows = []
    for run in runs:
        seen += run["requests"]
        errors = ", ".join(f"{count} {name}" for name, count in run["errors"].items())
        rows.append(
            (
                SERVERS[run["server"]].title,
                str(seen),
                f"{run['rss_bytes'] / 1e6:.1f} MB",
                errors or "none",
            )
        )
    return SOAKED + "\n\n" + markdown_table(("server", "requests so far", "memory", "errors"), rows)


SHOWN = {"{python}": "python", "{bundle}": "BUNDLE", "{gguf}": "FILE.gguf", "{model}": "MODEL"}
SHOWN |= {"{port}": "PORT", "{threads}": "THREADS"}
HEAD = """# Serving figures

Written by `tests/benchmarks/load.py`, beside whose README.md stands how to run it. A client in a process of
its own asks over loopback, on the machine that serves: so many clients at a time, each of which asks again
as soon as it has its answer. All servers run the whole time, those that are not asked cost nothing, and
each is asked in turn (A B C A B C ...) for so many seconds. The model is SmolLM2-135M-Instruct, every
request a conversation in English or Korean, streamed, greedy, with the same most tokens. There are as many
of each language; all servers of a round are asked the same, and no round what another has asked. Figures are
medians of the rounds, with the least and the most beside a rate. A server chooses when an answer ends, so
"tokens each" says how long answers were.

- **tokens/s** is that of all clients together, behind the seconds in which they join. An answer that has
  ended has the tokens that its server says, of one that was cut off at the end the model's tokenizer counts
  them.
- **first token** is the time from opening a connection to the first piece of text, **between pieces** that
  from one piece to the next; a Korean character may take several tokens, so it may come later than a
  token. Who still waits when the time is over counts as waiting longer (Kaplan and Meier); `> 8.0 s` says
  that the value was not seen.
- **answers that ended** stands beside all requests of the runs: the others were cut off at their end.
- **memory** is the resident memory of the server behind its runs, weights included.
- **client's processor** is what the client took of one core; all share the machine's cores.

Ratios hold between machines of a kind, the figures themselves do not; and a run is short, on a machine that
others use at other times: what differs by less than a quarter may be chance. Answers of the servers differ in
length and content, since precisions round differently. Where clients join within a short time, the rush of
their first prompts is a part of what is counted. With 64 clients ours writes 32 answers at a time
(`--max-rows`) and the others wait, which is most of their time to the first token."""
RATES = "Total tokens a second, of all clients together."
SCALED = """Our own rate at 16 clients over that at one. Whoever is alone is written drafts for: text that
repeats itself is then guessed and checked, which costs less than writing it, so that what one client gets
depends on the texts. Its rate without drafts stands beside it."""
SOAKED = """Short requests as fast as they are answered; 3600 are an hour's worth at one a second. The
server's resident memory after each part of them. Every tenth client hangs up as soon as its answer begins.
What it keeps of prompts, for those that begin alike, is bounded (128 MiB) and fills first; where it
shrinks, the clients paused, and it gave memory back."""
