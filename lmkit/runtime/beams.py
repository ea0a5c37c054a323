"""Search: several texts of one prompt are followed at once, and the best whole one is the answer.

Each prompt has its own search, which is fed log-probabilities and says which of its beams go on,
with which token. `search` runs them together over one `State`: prompts are read once, not once a
beam, and a search that ends leaves the batch. transformers goes on with an ended one until the last
prompt of its batch has ended, and throws the rest away: the answers are the same. Padding on the
left, which transformers counts as part of the prompt, takes no part in any score, and so ragged
prompts too get the answers that each gets alone.

Source: transformers.generation.utils.GenerationMixin._beam_search (5.23). Of equal scores the lower
beam and then the lower id comes first; torch.topk leaves that open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lmkit.answering.logits import Logits
from lmkit.encoding import Ids
from lmkit.errors import TaskError
from lmkit.generation import Generation
from lmkit.runtime.filters import Floats
from lmkit.runtime.sampling import no_choice, penalties
from lmkit.runtime.session import Session, State

# What stands for a score that nothing may beat: a beam that is not there yet, or is whole already.
# Finite, so that sums with it stay numbers.
_NEVER = np.float32(-1e9)

_GROUPS = 1024  # how many groups the scores are cut into before the best are sought


class BeamSearch:
    """One prompt's beams, best first, and its whole texts.

    Args:
        options: how to search.
        source: what the model was given, int64 [P].
        history: the ids that an answer continues, int64 [T].
        limit: the most tokens of an answer.
        stop_ids: ids that end an answer.
        ends: says whether an answer's ids are a whole text for another reason, such as a stop
            string; such a text is scored with all its tokens, like one that an end token closes.
    """

    def __init__(
        self,
        options: Generation,
        *,
        source: Ids,
        history: Ids,
        limit: int,
        stop_ids: Iterable[int] = (),
        ends: Callable[[Sequence[int]], bool] | None = None,
    ) -> None:
        n_beams = options.num_beams
        self.limit = limit
        self.options = options
        self.is_done = False
        # What the next step needs: for each of this search's rows of the state, the row that it
        # continues and the token. `_places` says which row each beam is; at first there is one.
        self.rows: list[int] = []
        self.tokens: list[int] = []
        self._places = np.zeros(n_beams, dtype=np.int64)
        self._scores: Floats = np.full(n_beams, _NEVER)
        self._scores[0] = 0  # all beams are the same text at first: only one may be continued
        self._before = len(history)
        self._length = 0
        self._ids = np.empty((n_beams, len(history) + limit), dtype=np.int64)
        self._ids[:, : len(history)] = history
        self._whole: list[tuple[np.float32, list[int]]] = []
        self._stop_ids = np.array(sorted(set(stop_ids)), dtype=np.int64)
        self._ends = ends
        self._penalties = penalties(options, eos_ids=stop_ids, limit=limit, source=source)

    @property
    def best(self) -> list[int]:
        """The best whole text's ids so far, its end token included.

        Raises:
            TaskError: the options let no text come to an end.
        """
        if not self._whole:
            raise TaskError(
                f"{self.options!r} lets no text come to an end; expected options that do, such as "
                "a larger no_repeat_ngram_size or a length_penalty nearer to 1"
            )
        return self._whole[0][1]

    def advance(self, logits: Logits, desk: Floats) -> None:
        """Take one step.

        Args:
            logits: float32 [R, V] behind each of this search's rows; only read, and not kept.
            desk: float32 [2, B, V] to reckon in; what is in it does not matter.
        Raises:
            ModelError: the logits are not numbers.
            TaskError: the options forbid every token.
        """
        n_beams = self.options.num_beams
        scores = self._log_probs(logits, desk)
        for beam, row in enumerate(scores):
            history = self._ids[beam, : self._before + self._length]
            for penalise in self._penalties:
                penalise(row, history, self._length)
        scores += self._scores[:, None]
        # Each beam may end with each end token, and as many others must be left to go on.
        n_kept = max(2, 1 + len(self._stop_ids)) * n_beams
        flat = scores.reshape(-1)
        kept = best_of(flat, n_kept)
        if flat[kept[0]] == -np.inf:
            if not self._whole:
                raise no_choice(self.options, logits)
            self.is_done = True
            return
        self._branch(flat[kept], *np.divmod(kept, scores.shape[1]))

    def _log_probs(self, logits: Logits, desk: Floats) -> Floats:
        """Return each beam's log-probabilities, float32 [B, V], which lie on the desk."""
        scores: Floats = desk[0]
        weights: Floats = desk[1]
        np.take(logits, self._places, axis=0, out=scores, mode="clip")
        top = scores.max(axis=1, keepdims=True)
        if not np.isfinite(top).all():
            raise no_choice(self.options, scores[~np.isfinite(top[:, 0])])
        scores -= top
        np.exp(scores, out=weights)
        scores -= np.log(weights.sum(axis=1, keepdims=True))
        return scores

    def _branch(self, scores: Floats, beams: Ids, tokens: Ids) -> None:
        """Choose among continuations, best first: a score, a beam and a token of each, all [K]."""
        n_beams = self.options.num_beams
        self._length += 1
        is_whole = self._are_whole(beams, tokens)
        # Those behind the first `num_beams` are there to go on, not to be answers.
        for index in np.flatnonzero(is_whole[:n_beams]):
            self._keep(scores[index], self._answer(beams[index], tokens[index]))
        running = np.where(is_whole, scores + _NEVER, scores)
        order = np.argsort(-running, kind="stable")[:n_beams]
        self._scores = running[order]
        self._ids = self._ids[beams[order]]
        self._ids[:, self._before + self._length - 1] = tokens[order]
        self._settle(self._places[beams[order]].tolist(), tokens[order].tolist())
        self.is_done = bool(is_whole.all()) or not self._may_improve()

    def _answer(self, beam: Any, token: Any) -> list[int]:
        written = self._ids[beam, self._before : self._before + self._length - 1]
        return [*written.tolist(), int(token)]

    def _are_whole(self, beams: Ids, tokens: Ids) -> np.ndarray:
        """Return which continuations are at their end, bool [K]."""
        if self._length >= self.limit:
            return np.ones(len(tokens), dtype=np.bool_)
        is_whole: np.ndarray = (tokens[:, None] == self._stop_ids).any(axis=1)
        if self._ends is not None:
            for index in np.flatnonzero(~is_whole):
                is_whole[index] = self._ends(self._answer(beams[index], tokens[index]))
        return is_whole

    def _keep(self, log_prob: np.float32, ids: list[int]) -> None:
        """Keep a whole text if it is among the best `num_beams`."""
        score = self._per_length(log_prob, self._length)
        if score > self._worst:
            self._whole.append((score, ids))
            self._whole.sort(key=lambda kept: -kept[0])
            del self._whole[self.options.num_beams :]

    @property
    def _is_full(self) -> bool:
        return len(self._whole) == self.options.num_beams

    @property
    def _worst(self) -> np.float32:
        """What a text must beat to be kept."""
        return self._whole[-1][0] if self._is_full else _NEVER

    def _may_improve(self) -> bool:
        """Say whether the best beam may still become one of the best whole texts."""
        early = self.options.early_stopping
        if early is True and self._is_full:
            return False
        # For False this is a guess: with a penalty above 0, more tokens might still score better.
        longest = early == "never" and self.options.length_penalty > 0
        length = self.limit if longest else self._length
        return bool(self._per_length(self._scores[0], length) > self._worst)

    def _per_length(self, log_prob: np.float32, length: int) -> np.float32:
        with np.errstate(all="ignore"):  # a penalty of hundreds makes all scores one
            score: np.float32 = log_prob / np.float32(
                np.float64(length) ** self.options.length_penalty
            )
        return score

    def _settle(self, parents: list[int], tokens: list[int]) -> None:
        """Give each beam a row: its parent's if it is the first to ask, else one nobody goes on from.

        So a step copies one row for each beam that died, and never two rows crosswise.
        """
        heirs: dict[int, int] = {}
        for beam, parent in enumerate(parents):
            heirs.setdefault(parent, beam)
        free = iter([row for row in range(len(parents)) if row not in heirs])
        places = [
            parent if heirs[parent] == beam else next(free) for beam, parent in enumerate(parents)
        ]
        self._places = np.array(places, dtype=np.int64)
        order = self._places.argsort()
        self.rows = [parents[beam] for beam in order]
        self.tokens = [tokens[beam] for beam in order]


def search(session: Session, prompts: Sequence[Ids], searches: Sequence[BeamSearch]) -> None:
    """Run each prompt's search to its end.

    Args:
        session: what reads the prompts.
        prompts: B prompts, each int64 [P], of any lengths.
        searches: one for each of them, with the same number of beams.
    Raises:
        ModelError: the logits are not numbers.
        TaskError: the options forbid every token.
    """
    for _ in searching(session, prompts, searches):
        pass


def searching(
    session: Session, prompts: Sequence[Ids], searches: Sequence[BeamSearch]
) -> Iterator[None]:
    """Run each prompt's search to its end, or until it is said to be done; yields after every step.

    Arguments and errors are those of `search`.
    """
    state, logits = session.begin(prompts, [one.limit for one in searches])
    try:
        yield from _run(state, logits, searches)
    finally:
        state.close()


def _run(state: State, logits: Logits, searches: Sequence[BeamSearch]) -> Iterator[None]:
    running = list(searches)
    shape = (2, searches[0].options.num_beams, logits.shape[1])
    desk: Floats = np.empty(shape, dtype=np.float32)
    n_rows = 1  # of each search; after the first step, one a beam
    while True:
        rows: list[int] = []
        tokens: list[int] = []
        for place, one in enumerate(running):
            if one.is_done:  # somebody has ended it
                continue
            start = place * n_rows
            one.advance(logits[start : start + n_rows], desk)
            if not one.is_done:
                rows += [start + row for row in one.rows]
                tokens += one.tokens
        if not rows:
            return
        if rows != list(range(len(running) * n_rows)):
            state.reorder(rows)
        running = [one for one in running if not one.is_done]
        n_rows = len(rows) // len(running)
        logits = state.step(tokens)
        yield


def best_of(scores: Floats, count: int) -> Ids:
    """Return where the `count` best scores are, best first; of equal ones the earlier comes first.

    Nothing as long as the scores is sorted or partitioned: each of a thousand groups has a best
    score, and what is below the `count`-th of those is not among the `count` best of all.

    Args:
        scores: float32 [N], none NaN.
        count: how many; all of them if there are fewer.
    Returns:
        int64 [min(count, N)].

    >>> best_of(np.array([1, 3, 2, 3], dtype=np.float32), 3)
    array([1, 3, 2])
    """
    n_groups = max(_GROUPS, count)
    n_each = len(scores) // n_groups
    if n_each < 2:
        return np.argsort(-scores, kind="stable")[:count]
    tops = scores[: n_each * n_groups].reshape(n_each, n_groups).max(axis=0)
    least = np.partition(tops, -count)[-count]
    found = np.flatnonzero(scores >= least)
    best: Ids = found[np.argsort(-scores[found], kind="stable")[:count]]
    return best
