"""Measure: every side does the same work, in turn, and the machine's read limit with them."""

from __future__ import annotations

import datetime
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs

from lmkit.benching.machine import machine
from lmkit.benching.passages import paragraphs, prompts
from lmkit.benching.readlimit import ReadLimit
from lmkit.benching.report import Report, Result, Spread, Work, figures_of
from lmkit.benching.sides import Side, SideFailed, Skipped, our_sides, peer_sides
from lmkit.benching.weights import bytes_per_token
from lmkit.benching.worker import Worker
from lmkit.errors import TaskError, UnknownName
from lmkit.family import Family
from lmkit.runtime.bundle import Bundle, open_bundle
from lmkit.runtime.cores import available_cores
from lmkit.saving.manifest import Manifest, Seq2SeqGraph
from lmkit.tokenizing import Tokenizer

PROMPT_TOKENS = (16, 512)
NEW_TOKENS = 64
TIMEOUT_S = 600.0
# Rounds that warm up where drafts are measured: what reads those of rounded weights is loaded only behind
# a few texts in which it would have paid (`lmkit.runtime.verifying`).
LEARNING = 5


def bench(
    bundle: str | Path,
    *,
    against: Iterable[str] = (),
    precisions: Sequence[str] | None = None,
    model: str | None = None,
    peer_pythons: Mapping[str, str] | None = None,
    prompt_tokens: Sequence[int] | None = None,
    new_tokens: Sequence[int] | None = None,
    batch_sizes: Sequence[int] = (1,),
    beams: int = 1,
    repeats: bool = False,
    quality: bool = False,
    rounds: int = 5,
    threads: int | None = None,
    timeout_s: float = TIMEOUT_S,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Measure a bundle, and beside it what else could serve its model.

    A round does each piece of work with one side after the other (A B C A B C ...), so that what
    disturbs the machine disturbs all; the first round warms up and is not counted, nor are the first
    `LEARNING` ones where drafts are measured. All write the same number of tokens behind the same ids,
    greedily, whether or not the text would end.

    Args:
        bundle: its folder.
        against: peers, each `NAME[:PRECISION][=MODEL]`; see `lmkit.benching.sides`.
        precisions: of the bundle; all that it has if None.
        model: what the bundle was exported from, for the peers that load that.
        peer_pythons: the interpreter of each peer that lives in another environment, by name.
        prompt_tokens: lengths of prompts; 16 and 512 if None, as far as they fit.
        new_tokens: lengths of answers; 64 if None, or less in a small context.
        batch_sizes: rows at once.
        beams: texts that a beam search follows; 1 is greedy.
        repeats: whether prompts repeat themselves; ours is then measured without drafts and with.
        quality: whether each side also tells how likely it finds a text, of causal models.
        rounds: how many are counted.
        threads: how many each side may use; all cores of the process if None.
        timeout_s: how long one piece of work may take a side.
        on_progress: called with what is being done, and how many pieces are done and to do.
    Raises:
        BundleError: the bundle is damaged.
        UnknownName: there is no such peer, or no such precision in the bundle.
        TaskError: a length does not fit the model, or a peer is asked for twice.
        SideFailed: ours cannot do its work; a peer's failure is in the report.
    """
    opened = open_bundle(bundle, checksums=False)
    manifest = opened.manifest
    family = manifest.task.family
    works = _works(manifest, prompt_tokens, new_tokens, batch_sizes, beams, repeats)
    ours = our_sides(opened.path, _precisions(manifest, precisions), drafts=repeats)
    peers, skipped = peer_sides(
        against, bundle=opened.path, family=family, model=model, pythons=peer_pythons
    )
    threads = threads or available_cores()
    limit, limits = ReadLimit(available_cores()), []
    tokenizer = opened.tokenizer
    scored = paragraphs(tokenizer, manifest.graph.context_length)
    quality = quality and family is Family.CAUSAL and bool(scored)
    warming = LEARNING if repeats else 1
    total = (len(works) * (rounds + warming) + quality) * (len(ours) + len(peers))
    tell = _Telling(on_progress, total)
    with ExitStack() as stack:
        running: list[_Running] = []
        for side in (*ours, *peers):
            tell(f"loading {side.title}")
            try:
                worker = Worker(side, threads=threads, timeout_s=timeout_s)
                stack.callback(worker.close)
                running.append(_Running(worker, family, threads))
            except SideFailed as error:
                if side.is_ours:
                    raise SideFailed(f"{side.title}: {error}") from error
                skipped.append(Skipped(side.title, _why(side, error)))
        for turn, work in itertools.product(range(rounds + warming), works):
            limits.append(limit.measure())
            given = _given(opened, tokenizer, work, turn)
            for one in running:
                tell(f"{one.side.title}: {work}", done=1)
                one.run(work, given, counts=turn >= warming)
                if one.failed is not None and one.side.is_ours:
                    raise SideFailed(f"{one.side.title}: {one.failed}")
        for one in running if quality else ():
            tell(f"{one.side.title}: how likely a text is", done=1)
            one.score(scored)
        spread = Spread.of(limits)
        weights = {side.precision: _weights(opened, side.precision) for side in ours}
        results = [
            one.result(running[0], spread.median, weights if one.side.is_ours else {})
            for one in running
        ]
    return Report(
        bundle=str(bundle),
        family=str(family),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=machine(),
        threads=threads,
        rounds=rounds,
        read_limit=spread,
        works=works,
        results=results,
        skipped=skipped,
    )


class _Running:
    """A loaded side and what it has done."""

    def __init__(self, worker: Worker, family: Family, threads: int) -> None:
        side = worker.side
        reply = worker.ask(
            "load",
            model=side.model,
            precision=side.precision,
            family=str(family),
            threads=threads,
            drafts=side.drafts,
        )
        self.worker = worker
        self.side = side
        self.library, self.settings = str(reply["library"]), str(reply["settings"])
        self.load_s = time.perf_counter() - worker.started
        self.start_to_first_token_s: float | None = None
        self.reasons: dict[Work, str] = {}
        self.perplexity: float | None = None
        self.unscored: str | None = None
        self._peak_bytes: int | None = None
        self.runs: dict[Work, list[list[float]]] = {}
        self.ids: dict[Work, list[list[int]]] = {}

    def run(self, work: Work, given: Mapping[str, Any], *, counts: bool) -> None:
        """Do a piece of work, unless it has failed before; what fails is kept, and the rest goes on."""
        if work in self.reasons or not self.worker.lives:
            return
        try:
            reply = self.worker.ask("run", **given)
        except SideFailed as error:
            self.reasons[work] = str(error)
            return
        times = [float(when) for when in reply["times"]]
        self.ids.setdefault(work, reply["ids"])  # the first round's, which every side has done
        if self.start_to_first_token_s is None:
            self.start_to_first_token_s = self.load_s + times[0]
        if counts:
            self.runs.setdefault(work, []).append(times)

    @property
    def failed(self) -> str | None:
        """What it could not do, with the reasons; None if it could do everything."""
        told = [f"{work}: {reason}" for work, reason in self.reasons.items()]
        return "; ".join(told) or None

    @property
    def peak_bytes(self) -> int:
        """The most memory that its process held until it was asked for a text's likelihood."""
        return self.worker.peak_bytes if self._peak_bytes is None else self._peak_bytes

    def score(self, rows: Sequence[Sequence[int]]) -> None:
        """Have it tell how likely rows are; one that cannot has no perplexity."""
        if not self.worker.lives:
            return
        # Every position's logits are no part of answering.
        self._peak_bytes = self.worker.peak_bytes
        try:
            found = self.worker.ask("score", rows=rows)["log_probs"]
        except SideFailed as error:
            self.unscored = str(error)
            return
        if [len(row) for row in found] != [len(row) - 1 for row in rows]:
            self.unscored = "it scores another number of tokens"
            return
        self.perplexity = math.exp(-math.fsum(itertools.chain(*found)) / sum(map(len, found)))

    def result(self, first: _Running, limit: float, weights: Mapping[str | None, Any]) -> Result:
        """Return the figures, beside those of the first side."""
        read = weights.get(self.side.precision)
        found = {}
        for work, runs in self.runs.items():
            figures = figures_of(work, runs)
            rate = figures.tokens_per_second
            # A guess that holds takes no step of its own.
            alone = work.rows == work.beams == 1 and not self.side.drafts
            share = rate.median * read / limit if rate and read and alone else None
            agreeing = _agreeing(first.ids[work], self.ids[work])
            found[work] = attrs.evolve(figures, share_of_limit=share, agreeing_tokens=agreeing)
        return Result(
            title=self.side.title,
            ours=self.side.is_ours,
            library=self.library,
            settings=self.settings,
            load_s=self.load_s,
            start_to_first_token_s=self.start_to_first_token_s,
            peak_bytes=self.peak_bytes,
            weights_bytes_per_token=read,
            perplexity=self.perplexity,
            unscored=self.unscored,
            figures=found,
            failed=self.failed,
        )


class _Telling:
    """Says how far a benchmark is."""

    def __init__(self, told: Callable[[str, int, int], None] | None, total: int) -> None:
        self._told, self._total, self._done = told, total, 0

    def __call__(self, what: str, done: int = 0) -> None:
        if self._told is not None:
            self._told(what, self._done, self._total)
        self._done += done


def _works(
    manifest: Manifest,
    prompt_tokens: Sequence[int] | None,
    new_tokens: Sequence[int] | None,
    batch_sizes: Sequence[int],
    beams: int,
    repeats: bool,
) -> list[Work]:
    """Return what to do, each piece of which fits the model."""
    graph, family = manifest.graph, manifest.task.family
    most = graph.context_length
    if family is Family.MASKED:
        if beams > 1 or new_tokens not in (None, (1,), [1]):
            raise TaskError("a masked model fills its mask in one pass: no new tokens, no beams")
        new_tokens = (1,)
    writes_behind = most is not None and family is Family.CAUSAL
    if new_tokens is None:
        new_tokens = (min(NEW_TOKENS, most // 2) if writes_behind and most else NEW_TOKENS,)
    room = None if most is None else most - (max(new_tokens) if writes_behind else 0)
    if prompt_tokens is None:
        fitting = [length for length in PROMPT_TOKENS if room is None or length <= room]
        prompt_tokens = fitting or [max(1, room or 1)]
    if room is not None and max(prompt_tokens) > room:
        behind = f" and {max(new_tokens)} new ones" if writes_behind else ""
        raise TaskError(
            f"a prompt of {max(prompt_tokens)} tokens{behind} do not fit the model's context of "
            f"{most}; ask for fewer"
        )
    each = itertools.product(batch_sizes, new_tokens, prompt_tokens)
    return [
        Work(prompt_tokens=p, new_tokens=n, rows=b, beams=beams, repeats=repeats)
        for b, n, p in each
    ]


def _given(bundle: Bundle, tokenizer: Tokenizer, work: Work, turn: int) -> dict[str, Any]:
    """Return a piece of work as a side is asked for it in a round."""
    tokens, family = bundle.manifest.tokens, bundle.manifest.task.family
    return {
        "family": str(family),
        "prompts": prompts(
            tokenizer,
            work.prompt_tokens,
            work.rows,
            family=family,
            turn=turn,
            repeats=work.repeats,
        ),
        "new_tokens": work.new_tokens,
        "beams": work.beams,
        "pad_id": tokens.pad,
        "mask_id": tokenizer.mask_id,
    }


def _precisions(manifest: Manifest, asked: Sequence[str] | None) -> list[str]:
    known = list(dict.fromkeys([manifest.precision, *manifest.precisions]))
    for name in asked or ():
        if name not in known:
            raise UnknownName("precision of this bundle", name, known)
    return list(dict.fromkeys(asked or known))


def _weights(bundle: Bundle, precision: str | None) -> int | None:
    """Return the bytes of weights that one token reads in a precision; None of a masked model."""
    if bundle.manifest.task.family is Family.MASKED:
        return None
    graph = bundle.manifest.at(precision).graph
    ports = graph.decoder if isinstance(graph, Seq2SeqGraph) else graph.graphs[0]
    return bytes_per_token(bundle.path / ports.file)


def _why(side: Side, error: SideFailed) -> str:
    return f"not installed ({error}); {side.install}" if error.missing else str(error)


def _agreeing(ids: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> int:
    """Return how many leading tokens are the same in every row."""
    rows = [
        next((at for at, (a, b) in enumerate(zip(row, other, strict=False)) if a != b), len(row))
        for row, other in zip(ids, others, strict=False)
    ]
    return min(rows, default=0)
