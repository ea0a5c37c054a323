"""What a benchmark found: figures with their spread, the machine, and who could not take part."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Self

import attrs

from lmkit.benching.sides import Skipped


@attrs.frozen
class Spread:
    """Figures of several rounds.

    Attributes:
        median: the one in the middle.
        low: the least.
        high: the most.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Self:
        """Return the spread of one figure or more."""
        return cls(statistics.median(figures), min(figures), max(figures))


@attrs.frozen(kw_only=True)
class Work:
    """What every side is asked to do.

    Attributes:
        prompt_tokens: ids in each row; of a masked model those of the text.
        new_tokens: tokens written behind each row; 1 of a masked model, which fills its mask.
        rows: rows at once.
        beams: texts that a search follows; 1 is greedy.
        repeats: whether the prompt's text comes a second time.
    """

    prompt_tokens: int
    new_tokens: int
    rows: int = 1
    beams: int = 1
    repeats: bool = False

    def __str__(self) -> str:
        text = f"{self.prompt_tokens} + {self.new_tokens} tokens"
        text += f", {self.rows} rows" if self.rows > 1 else ""
        text += f", {self.beams} beams" if self.beams > 1 else ""
        return text + (", repeating" if self.repeats else "")


@attrs.frozen(kw_only=True)
class Figures:
    """One side's figures for one piece of work.

    Attributes:
        first_token_s: from the request to the first token of every row, in seconds; None for a beam
            search, which has none until the end.
        token_s: mean time between tokens; None where there is one token, or a beam search.
        token_p50_s: the median time between two tokens, over all rounds.
        token_p99_s: the 99th percentile of the same.
        tokens_per_second: of all rows together, behind the first token; for a beam search, over all.
        whole_s: from the request to the last token.
        share_of_limit: bytes of weights read a second over the read limit; ours, for one row.
        agreeing_tokens: how many leading tokens are those of the first side, of the row that differs
            first: the same work is done if it is not 0.
    """

    first_token_s: Spread | None
    token_s: Spread | None
    token_p50_s: float | None
    token_p99_s: float | None
    tokens_per_second: Spread | None
    whole_s: Spread
    share_of_limit: float | None = None
    agreeing_tokens: int | None = None


@attrs.frozen(kw_only=True)
class Result:
    """What one side did.

    Attributes:
        title: how tables name it.
        ours: whether it is the bundle.
        library: name and version.
        settings: how it was run.
        load_s: from the start of its process to a model that is ready.
        start_to_first_token_s: the same and the first token of the shortest work, once.
        peak_bytes: the most memory that its process held.
        weights_bytes_per_token: of a bundle, what a step reads; None where that is not known.
        figures: by work.
        failed: which work it could not do and why, or None.
        perplexity: of the passage that prompts are cut from, where it was asked for and could be told.
        unscored: why it could not, or None.
    """

    title: str
    ours: bool
    library: str
    settings: str
    load_s: float
    start_to_first_token_s: float | None
    peak_bytes: int
    weights_bytes_per_token: int | None
    figures: Mapping[Work, Figures]
    failed: str | None = None
    perplexity: float | None = None
    unscored: str | None = None


@attrs.frozen(kw_only=True)
class Report:
    """A finished benchmark.

    Attributes:
        bundle: what was measured.
        family: of its task.
        date: when, in ISO 8601 form.
        machine: its processor, cores, memory, system and Python.
        threads: how many each side used.
        rounds: how many were counted.
        read_limit: bytes a second that all cores read from memory.
        works: what was asked for.
        results: ours first.
        skipped: who was asked for and could not take part, or could not be loaded.
    """

    bundle: str
    family: str
    date: str
    machine: Mapping[str, Any]
    threads: int
    rounds: int
    read_limit: Spread
    works: Sequence[Work]
    results: Sequence[Result]
    skipped: Sequence[Skipped]

    def document(self) -> dict[str, Any]:
        """Return it as JSON data."""
        data = attrs.asdict(self, recurse=True, filter=lambda field, _: field.name != "results")
        data["results"] = [
            {
                **attrs.asdict(result, filter=lambda field, _: field.name != "figures"),
                "figures": [
                    {**attrs.asdict(work), **attrs.asdict(figures)}
                    for work, figures in result.figures.items()
                ],
            }
            for result in self.results
        ]
        return data

    @classmethod
    def of_document(cls, data: Mapping[str, Any]) -> Self:
        """Return the report that a `document` was made of."""
        given = {field.name: data[field.name] for field in attrs.fields(cls)}
        given["read_limit"] = Spread(**data["read_limit"])
        given["works"] = [Work(**work) for work in data["works"]]
        given["skipped"] = [Skipped(**skipped) for skipped in data["skipped"]]
        known = {field.name for field in attrs.fields(Result)}  # what others add stays out
        given["results"] = [
            Result(
                **{name: content for name, content in result.items() if name in known}
                | {"figures": dict(map(_worked, result["figures"]))}
            )
            for result in data["results"]
        ]
        return cls(**given)


def _worked(data: Mapping[str, Any]) -> tuple[Work, Figures]:
    """Return a piece of work and its figures, which lie beside each other in a document."""
    work = Work(**{field.name: data[field.name] for field in attrs.fields(Work)})
    found = {field.name: data[field.name] for field in attrs.fields(Figures)}
    spreads = {name: Spread(**part) for name, part in found.items() if isinstance(part, dict)}
    return work, Figures(**found | spreads)


def figures_of(work: Work, runs: Sequence[Sequence[float]]) -> Figures:
    """Return the figures of runs, each the seconds from its request to each step."""
    whole = Spread.of([run[-1] for run in runs])
    if work.beams > 1:
        rate = Spread.of([work.rows * work.new_tokens / run[-1] for run in runs])
        return Figures(
            first_token_s=None,
            token_s=None,
            token_p50_s=None,
            token_p99_s=None,
            tokens_per_second=rate,
            whole_s=whole,
        )
    first = Spread.of([run[0] for run in runs])
    gaps = sorted(b - a for run in runs for a, b in itertools.pairwise(run))
    if not gaps:
        return Figures(
            first_token_s=first,
            token_s=None,
            token_p50_s=None,
            token_p99_s=None,
            tokens_per_second=None,
            whole_s=whole,
        )
    means = [(run[-1] - run[0]) / (len(run) - 1) for run in runs]
    return Figures(
        first_token_s=first,
        token_s=Spread.of(means),
        token_p50_s=statistics.median(gaps),
        token_p99_s=gaps[min(len(gaps) - 1, round(0.99 * (len(gaps) - 1)))],
        tokens_per_second=Spread.of([work.rows / mean for mean in means]),
        whole_s=whole,
    )
