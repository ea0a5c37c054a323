"""Preview: what a model would be trained on, row by row, and what is wrong with it.

In come a task, records and a tokenizer; out goes a `Preview`: a few rows token by token, totals over
all rows, and findings. `lmkit preview` prints it, `page` makes one HTML file of it, and `train`
shows it before the first step. Nothing here needs torch.
"""

from __future__ import annotations

from typing import Any

import attrs

from lmkit.values import value

LEVELS = ("error", "warning", "note")
KINDS = ("learned", "read", "cut")


@value(kw_only=True)
class Token:
    """One token of a row, as it is shown.

    Attributes:
        id: its id.
        text: what it adds to the text, so that the tokens' texts join to the row's; a character of
            several tokens stands in the first of them, and the others are empty.
        kind: `learned`, `read`, or `cut` where the row is too long for it.
        control: whether it steers the model.
    """

    id: int
    text: str
    kind: str
    control: bool = False


@value(kw_only=True)
class Shown:
    """One row, token by token.

    Attributes:
        index: its place among the rows, from 0.
        where: the record's place, such as `train.jsonl:17`.
        why: why it is shown: `first`, `chosen`, `longest`, `shortest`, `most cut`, `finding`, or
            several of these, as in `first, longest`.
        tokens: the row's tokens, those that were cut off among them; of a seq2seq row the source's.
        target: of a seq2seq row the target's.
        n_tokens: how many tokens the model gets; of a seq2seq row the source's and the target's.
        n_learned: how many of those it learns.
        n_cut: how many were left out.
    """

    index: int
    where: str
    why: str
    tokens: tuple[Token, ...]
    target: tuple[Token, ...] = ()
    n_tokens: int = 0
    n_learned: int = 0
    n_cut: int = 0


@value(kw_only=True)
class Finding:
    """One thing that is wrong with a data set, or worth a look.

    Attributes:
        name: such as `eos-never-learned`; a script may rely on it.
        level: `error`, `warning` or `note`.
        text: what was found.
        remedy: what to do about it.
        count: in how many rows.
        of: of how many.
        where: an example's place, such as `train.jsonl:17`.
        excerpt: what it looks like there.
    """

    name: str
    level: str = attrs.field(validator=attrs.validators.in_(LEVELS))
    text: str
    remedy: str
    count: int
    of: int
    where: str = ""
    excerpt: str = ""


@value(kw_only=True)
class Histogram:
    """How often which length occurs.

    Attributes:
        edges: N + 1 lengths in tokens; bar i counts rows of `edges[i]` up to, not with, `edges[i + 1]`.
        counts: N numbers of rows.
    """

    edges: tuple[int, ...]
    counts: tuple[int, ...]


@value(kw_only=True)
class Lengths:
    """How long rows are, in tokens.

    Attributes:
        name: what is measured: `row`, `learned`, `source` or `target`.
        shortest: the least.
        median: the middle one.
        p95: what 95 of 100 do not exceed.
        longest: the most.
        mean: the mean.
        histogram: the bars.
    """

    name: str
    shortest: int
    median: int
    p95: int
    longest: int
    mean: float
    histogram: Histogram


@value(kw_only=True)
class Totals:
    """Sums over all rows.

    Attributes:
        records: how many records were read.
        rows: how many rows they became.
        dropped: reasons why records became no row, each with how many.
        tokens: tokens in all rows.
        learned: how many of them are learned.
        cut_rows: how many rows lost something.
        cut_tokens: how many tokens they lost.
        max_length: the most tokens in a row.
        packing_fill: of `CausalCollator(pack=True)`, or were it so, the share of places that hold a
            token; None where rows cannot be packed.
        padding_share: of batches of eight rows of like length, as training makes them, the share of
            places that are padding.
    """

    records: int
    rows: int
    dropped: dict[str, int] = attrs.field(factory=dict)
    tokens: int
    learned: int
    cut_rows: int
    cut_tokens: int
    max_length: int
    packing_fill: float | None = None
    padding_share: float = 0.0


@value(kw_only=True)
class Preview:
    """What a model would be trained on.

    Attributes:
        task: the task's name.
        family: how the model reads a row: `causal`, `masked` or `seq2seq`.
        data: what the data is called.
        model: what the model, or its tokenizer, is called.
        shown: some rows, token by token.
        totals: sums over all rows.
        lengths: how long rows, their learned parts, sources and targets are.
        findings: what is wrong, errors first.
        about: versions and the like, for a reader of a report.
    """

    task: str
    family: str
    data: str
    model: str
    shown: tuple[Shown, ...]
    totals: Totals
    lengths: tuple[Lengths, ...]
    findings: tuple[Finding, ...]
    about: dict[str, Any] = attrs.field(factory=dict)

    @property
    def worst(self) -> str | None:
        """The worst level found, or None."""
        found = {finding.level for finding in self.findings}
        return next((level for level in LEVELS if level in found), None)
