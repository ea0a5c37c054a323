"""The full comparison: every precision, every family, every peer with its own best settings.

    python tests/benchmarks/compare.py install --folder F
    python tests/benchmarks/compare.py prepare --folder F --model MODEL --tokenizers T
    python tests/benchmarks/compare.py run --folder F [--parts int4,masked] [--rounds 5]
    python tests/benchmarks/compare.py write --folder F --docs docs

or the same behind `tox -e bench --`. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from goals import GOALS, against_goal
from peers import HOMES, install, prepare

from lmkit.benching import bench
from lmkit.benching.plots import save_plot
from lmkit.benching.tables import markdown, markdown_table


@attrs.frozen(kw_only=True)
class Part:
    """One table of the comparison.

    Attributes:
        title: its heading.
        bundle: which of the bundles.
        against: the peers; a model's folder is named within `models`.
        options: for `lmkit.benching.bench`.
    """

    title: str
    bundle: str
    against: Sequence[str]
    options: Mapping[str, Any]


BOTH = {"prompt_tokens": [16, 512], "new_tokens": [64]}
T5 = {"prompt_tokens": [64], "new_tokens": [64]}
PARTS = {
    "fp32": Part(
        title="Causal, fp32",
        bundle="lmkit",
        against=[
            *("transformers:fp32=MODEL", "optimum:fp32=optimum-fp32", "genai:fp32=genai-fp32"),
            *("ctranslate2:fp32=ct2", "openvino:fp32=openvino-fp32"),
        ],
        options={"precisions": ["fp32"], **BOTH},
    ),
    "int8": Part(
        title="Causal, int8",
        bundle="lmkit",
        against=["genai:int8=genai-int8", "ctranslate2:int8=ct2", "openvino:int8=openvino-int8"],
        options={"precisions": ["int8"], **BOTH},
    ),
    "int4": Part(
        title="Causal, int4",
        bundle="lmkit",
        against=[
            *("genai:int4=genai-int4", "llama.cpp:q4_1=GGUF", "openvino:int4=openvino-int4"),
            *("openvino:int4-all=openvino-int4-all", "transformers:fp32=MODEL"),
        ],
        options={"precisions": ["int4"], **BOTH},
    ),
    "batch": Part(
        title="Causal, several rows at once",
        bundle="lmkit",
        against=["genai:int4=genai-int4", "llama.cpp:q4_1=GGUF", "openvino:int4=openvino-int4"],
        options={"prompt_tokens": [16], "new_tokens": [32], "batch_sizes": [1, 4, 16, 64]},
    ),
    "repeats": Part(
        title="Causal, text that repeats: drafts from the prompt",
        bundle="lmkit",
        against=[],
        options={"repeats": True, "prompt_tokens": [384], "new_tokens": [64]},
    ),
    "seq2seq": Part(
        title="Seq2seq (T5-small), greedy",
        bundle="lmkit-t5",
        against=["transformers:fp32=t5", "optimum:fp32=optimum-t5", "ctranslate2:fp32=ct2-t5"],
        options=T5,
    ),
    "beams": Part(
        title="Seq2seq (T5-small), 4 beams",
        bundle="lmkit-t5",
        against=["transformers:fp32=t5", "optimum:fp32=optimum-t5", "ctranslate2:fp32=ct2-t5"],
        options={"beams": 4, **T5},
    ),
    "masked": Part(
        title="Masked (DistilBERT), 16 texts at once",
        bundle="lmkit-distilbert",
        against=["transformers:fp32=distilbert", "optimum:fp32=optimum-distilbert"],
        options={"prompt_tokens": [128], "batch_sizes": [16]},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("act", choices=["install", "prepare", "run", "write"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "lmkit-bench")
    parser.add_argument("--model", type=Path, help="the causal model's folder")
    parser.add_argument("--gguf", type=Path, help="the same model as .gguf, for llama.cpp")
    parser.add_argument("--tokenizers", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args()
    if options.act == "install":
        install(options.folder)
    elif options.act == "prepare":
        prepare(options.folder, options.model, options.tokenizers)
    elif options.act == "run":
        for name in options.parts.split(","):
            run(name, options)
    else:
        write(options.folder, options.docs)


def run(name: str, options: argparse.Namespace) -> None:
    """Measure one part; its table, picture and figures go into `results`."""
    part, models = PARTS[name], options.folder / "models"
    places = {"MODEL": str(options.model or ""), "GGUF": str(options.gguf or "")}
    against = []
    for peer in part.against:
        title, _, place = peer.partition("=")
        against.append(f"{title}={places.get(place, models / place)}")
    given = dict(part.options)
    if options.new_tokens and "new_tokens" in given:
        given["new_tokens"] = [options.new_tokens]
    report = bench(
        models / part.bundle,
        against=against,
        peer_pythons={
            peer: str(options.folder / home / "bin" / "python") for peer, home in HOMES.items()
        },
        rounds=options.rounds,
        threads=options.threads,
        on_progress=lambda what, done, total: print(
            f"\r{name} {done}/{total} {what:<50}", end="", file=sys.stderr
        ),
        **given,
    )
    print(file=sys.stderr)
    results = options.folder / "results"
    results.mkdir(exist_ok=True)
    table = markdown(report)
    (results / f"{name}.md").write_text(table, "utf-8")
    (results / f"{name}.json").write_text(json.dumps(report.document(), indent=1), "utf-8")
    save_plot(report, results / f"{name}.svg")
    print(f"## {part.title}\n\n{table}")


def write(folder: Path, docs: Path) -> None:
    """Put the results together as `benchmarks.md`, with their pictures beside it."""
    results = folder / "results"
    found = {name: results / f"{name}.json" for name in PARTS}
    reports = {
        name: json.loads(path.read_text("utf-8")) for name, path in found.items() if path.is_file()
    }
    docs.mkdir(exist_ok=True)
    lines = [HEAD]
    titles = ("what", "ours", "theirs", "ratio or figure", "to reach", "reached")
    lines.append(
        markdown_table(titles, [row for goal in GOALS if (row := against_goal(goal, reports))])
    )
    for name in reports:
        lines.append(f"## {PARTS[name].title}")
        lines.append(f"![{PARTS[name].title}](benchmarks-{name}.svg)")
        lines.append((results / f"{name}.md").read_text("utf-8").strip())
        picture = (results / f"{name}.svg").read_text("utf-8")
        (docs / f"benchmarks-{name}.svg").write_text(picture, "utf-8")
    (docs / "benchmarks.md").write_text("\n\n".join(lines) + "\n", "utf-8")
    print((docs / "benchmarks.md").read_text("utf-8"))


HEAD = """# Benchmarks

Written by `tests/benchmarks/compare.py`; each table has its date, machine and versions. Every side runs in
a process of its own and does the same work in turn; figures are medians, with the least and most of the
rounds. Ratios hold between machines of a kind, the figures themselves do not.

## The numbers to reach

Medians of ours over theirs; of times, theirs over ours, so that more is better."""


if __name__ == "__main__":
    main()
