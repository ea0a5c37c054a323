"""Print: a preview as a terminal shows it, in colours or with marks in their place."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING

from lmkit.previewing import Finding, Lengths, Preview, Shown, Token, Totals
from lmkit.previewing.visible import parts

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

MOST_CELLS = 640  # of neighbouring tokens of one kind; of more the middle is left out
ENDS = 200  # cells that are shown on each side of what is left out
BAR = 24  # cells of a histogram's longest bar
_SPACES = {"\n": "↵\n", "\t": "⇥\t", "\xa0": "\xa0"}
_EIGHTHS = " ▏▎▍▌▋▊▉"

CONTROL = "control"
STYLES = {"learned": "green", "read": "", "cut": "red strike", CONTROL: "magenta"}
CONTROL_STYLES = {"learned": "bold black on green", "read": "magenta", "cut": "magenta strike"}
EDGE = "underline"  # every other token of what is learned, so that one sees where they part
MARKS = {"learned": "«»", "read": "", "cut": "⟪⟫", CONTROL: "⟦⟧"}
LEVEL_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def print_preview(preview: Preview, console: Console, *, whole: bool = False) -> None:
    """Print rows, lengths, totals and findings.

    Args:
        preview: what is printed.
        console: where.
        whole: whether long rows are written out.
    """
    coloured = console.color_system is not None and not console.no_color
    hides = preview.family == "masked"
    console.print(legend(coloured=coloured, hides=hides))
    for shown in preview.shown:
        console.print()
        names = [f.name for f in preview.findings if f.where == shown.where]
        console.print(row(shown, names, coloured=coloured, hides=hides, whole=whole))
    console.print()
    _print_lengths(preview.lengths, console, hides=hides)
    console.print()
    for line in totals(preview.totals, hides=hides):
        console.print(line)
    console.print()
    console.print(findings(preview.findings))


def print_first(preview: Preview, console: Console) -> None:
    """Print the first row, and a line for each finding."""
    coloured = console.color_system is not None and not console.no_color
    hides = preview.family == "masked"
    for shown in preview.shown[:1]:
        console.print(row(shown, coloured=coloured, hides=hides))
        console.print(legend(coloured=coloured, hides=hides), style="dim")
    for line in totals(preview.totals, hides=hides)[:1]:
        console.print(line)
    for finding in preview.findings:
        console.print(short(finding))


def short(finding: Finding) -> Text:
    """Return a finding on one line."""
    from rich.text import Text

    text = Text()
    text.append(finding.level, LEVEL_STYLES[finding.level])
    text.append(f" {finding.name}", "bold")
    count = f" ({finding.count:,} of {finding.of:,})" if finding.of else ""
    place = f", such as {finding.where}" if finding.where else ""
    text.append(f"{count}: {finding.text}{place}")
    return text


def legend(*, coloured: bool, hides: bool) -> Text:
    """Return what the colours, or the marks, mean."""
    from rich.text import Text

    words = {"learned": "may be hidden" if hides else "learned", "read": "read", "cut": "left out"}
    text = Text()
    for kind in ("learned", "read", "cut", CONTROL):
        word = words.get(kind, "control token")
        text.append("  " if text else "")
        if coloured:
            text.append(word, STYLES[kind])
        else:
            text.append(word.join(_marks(kind)))
    return text


def _marks(kind: str) -> tuple[str, str]:
    marks = MARKS[kind]
    return (marks[0], marks[1]) if marks else ("", "")


def row(
    shown: Shown,
    names: Sequence[str] = (),
    *,
    coloured: bool,
    hides: bool = False,
    whole: bool = False,
) -> Text:
    """Return a row's text with its tokens told apart, under a line that says which it is.

    Args:
        shown: the row.
        names: the findings of which it is the example.
        coloured: whether colours tell tokens apart; otherwise marks do.
        hides: whether what is learned is what may be hidden.
        whole: whether long stretches are written out.
    """
    from rich.text import Text

    learned = "may be hidden" if hides else "learned"
    facts = [f"{shown.n_tokens:,} tokens", f"{shown.n_learned:,} {learned}"]
    if shown.n_cut:
        facts.append(f"{shown.n_cut:,} left out")
    text = Text()
    text.append(f"row {shown.index}", "bold")
    why = [reason for reason in shown.why.split(", ") if reason != "finding"]
    text.append(f"  {', '.join([*why, *names])}  ")
    text.append(f"{', '.join(facts)}  {visible(shown.where)}\n", "dim")
    text.append_text(tokens(shown.tokens, coloured=coloured, whole=whole))
    if shown.target:
        text.append("\n→ ", "bold")
        text.append_text(tokens(shown.target, coloured=coloured, whole=whole))
    if text.plain.endswith("\n"):
        text.right_crop(1)
    return text


def tokens(found: Sequence[Token], *, coloured: bool, whole: bool = False) -> Text:
    """Return tokens' text, stretch by stretch."""
    from rich.text import Text

    text = Text()
    for kind, run in groupby(found, lambda token: token.kind):
        stretch = list(run)
        first, last = (stretch, []) if whole else _ends(stretch)
        opening, closing = ("", "") if coloured else _marks(kind)
        text.append(opening)
        _append(text, first, coloured=coloured)
        if last:
            text.append(f" … {len(stretch) - len(first) - len(last):,} more … ", "dim italic")
            _append(text, last, coloured=coloured)
        text.append(closing)
    return text


def _ends(found: list[Token]) -> tuple[list[Token], list[Token]]:
    """Return tokens, or the first and the last where they are many."""
    from rich.cells import cell_len

    widths = [cell_len(token.text) for token in found]
    if sum(widths) <= MOST_CELLS:
        return found, []
    first, last = _fitting(widths), _fitting(widths[::-1])
    return found[:first], found[len(found) - last :]


def _fitting(widths: Sequence[int]) -> int:
    """Return how many of the first fit into `ENDS` cells, and one at least."""
    return max(1, bisect_right(list(accumulate(widths)), ENDS))


def _append(text: Text, found: Sequence[Token], *, coloured: bool) -> None:
    for place, token in enumerate(found):
        written = visible(token.text)
        if not coloured:
            text.append(written.join(_marks(CONTROL)) if token.control else written)
        elif token.control:
            text.append(written, CONTROL_STYLES[token.kind])
        else:
            edge = f" {EDGE}" if token.kind == "learned" and place % 2 else ""
            text.append(written, STYLES[token.kind] + edge)


def visible(text: str) -> str:
    r"""Return a text with line ends marked, and what no one sees, or a terminal would obey, named.

    >>> visible("a\nb\u200d\x1b[0m")
    'a↵\nb‹ZWJ›‹ESC›[0m'
    """
    return "".join(
        piece if not name else _SPACES.get(piece, f"‹{name}›") for piece, name in parts(text)
    )


def _print_lengths(lengths: Sequence[Lengths], console: Console, *, hides: bool) -> None:
    from rich.columns import Columns

    parts = [histogram(part, hides=hides) for part in lengths]
    console.print(Columns(parts, padding=(0, 6, 1, 0)))


def histogram(part: Lengths, *, hides: bool = False) -> RenderableType:
    """Return how often which length occurs, as bars."""
    from rich.text import Text

    edges, counts = part.histogram.edges, part.histogram.counts
    names = [f"{a:,}–{b - 1:,}" if b - 1 > a else f"{a:,}" for a, b in pairwise(edges)]
    width, most = max(map(len, names)), max(counts)
    text = Text()
    what = (
        "tokens that may be hidden" if hides and part.name == "learned" else f"{part.name} tokens"
    )
    text.append(f"{what}\n", "bold")
    text.append(
        f"least {part.shortest:,} · median {part.median:,} · 95% {part.p95:,} · most {part.longest:,}\n",
        "dim",
    )
    for name, count in zip(names, counts, strict=True):
        text.append(f"{name:>{width}} ")
        text.append(f"{bar(count / most):<{BAR}}", "blue")
        text.append(f" {count:,}\n")
    text.rstrip()
    return text


def bar(share: float) -> str:
    """Return a bar of eighths of cells; what is not nothing is seen.

    >>> bar(0.5), bar(0.0001), bar(0)
    ('████████████', '▏', '')
    """
    eighths = round(share * BAR * 8) or (share > 0)
    full, rest = divmod(int(eighths), 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def totals(found: Totals, *, hides: bool = False) -> list[str]:
    """Return the sums in words, a line each."""
    learned = "may be hidden" if hides else "learned"
    share = found.learned / found.tokens if found.tokens else 0.0
    lines = [
        f"{many(found.rows, 'row')} of {many(found.records, 'record')}; {found.tokens:,} tokens, "
        f"{found.learned:,} ({share:.1%}) {learned}"
    ]
    if found.cut_rows:
        lines.append(
            f"{many(found.cut_rows, 'row')} ({found.cut_rows / found.rows:.1%}) cut to "
            f"{found.max_length:,} tokens; {many(found.cut_tokens, 'token')} left out"
        )
    lines += [
        f"{many(count, 'record')} dropped: {reason}" for reason, count in found.dropped.items()
    ]
    padding = f"padding fills {found.padding_share:.1%} of batches of eight rows"
    if found.packing_fill is not None:
        padding += f"; packed, tokens would fill {found.packing_fill:.1%}"
    return [*lines, padding]


def many(count: int, what: str) -> str:
    """Return a number of things in words.

    >>> many(1, "row"), many(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def findings(found: Sequence[Finding]) -> Text:
    """Return what is wrong, with an example and the remedy of each."""
    from rich.text import Text

    text = Text()
    if not found:
        text.append("nothing wrong was found", "green")
        return text
    for finding in found:
        text.append_text(_finding(finding))
    text.rstrip()
    return text


def _finding(finding: Finding) -> Text:
    from rich.text import Text

    text = Text()
    text.append(finding.level, LEVEL_STYLES[finding.level])
    text.append(f" {finding.name}", "bold")
    if finding.of:
        text.append(f"  {finding.count:,} of {finding.of:,}")
    text.append(f"\n  {finding.text}\n")
    if finding.where or finding.excerpt:
        text.append("  such as ", "dim")
        example = ": ".join(part for part in (finding.where, finding.excerpt) if part)
        text.append(f"{visible(example)}\n")
    text.append("  remedy: ", "dim")
    text.append(f"{finding.remedy}\n")
    return text
