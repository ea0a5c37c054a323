"""Sample: one row of logits becomes the next token, in numpy alone.

The loop hands over a row of logits, which it reads in place from the runtime's buffer, and the
ids so far; `Sampler.choose` returns the token. Every step does what transformers' processor of the
same name does, in transformers' order, so an answer is drawn as `generate()` would draw it.

Source: transformers.generation.logits_process (5.23), and its order from
`GenerationMixin._get_logits_processor`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import attrs
import numpy as np

from lmkit.errors import LmkitError, ModelError, TaskError
from lmkit.generation import Generation
from lmkit.runtime.filters import Floats, Ids, exponentials, filters

_BLOCK = 1024  # weights summed at once in a draw


class Penalty(Protocol):
    """A step that greedy decoding has too."""

    def __call__(self, scores: Floats, history: Ids, n_new: int) -> None:
        """Change `scores`, float32 [V], in place.

        Args:
            scores: the logits, as changed so far.
            history: int64 [T], the ids so far, those of the prompt included.
            n_new: how many of them the answer has.
        """

    def spares(self, token: int, history: Ids, n_new: int) -> bool:
        """Return whether a token that is the best before it is certainly the best behind it.

        That is where the token's score stays and no other becomes larger.
        """


@attrs.frozen
class RepetitionPenalty:
    """Make what is already in the history less likely.

    Source: Keskar et al. 2019, "CTRL", section 4.1, made safe for negative logits by transformers:
    a logit below 0 is multiplied by the penalty, others are divided by it.
    """

    penalty: float

    def __call__(self, scores: Floats, history: Ids, n_new: int) -> None:
        """Change `scores`, float32 [V], in place; an id that repeats counts once."""
        seen = history[history < len(scores)]  # a head may be smaller than its vocabulary
        picked = scores[seen]
        scores[seen] = np.where(picked < 0, picked * self.penalty, picked / self.penalty)

    def spares(self, token: int, history: Ids, n_new: int) -> bool:
        """Say whether it is left alone; see `Penalty`."""
        return self.penalty >= 1 and not bool((history == token).any())


@attrs.frozen
class NoRepeatNgram:
    """Forbid every token that would complete an n-gram for the second time."""

    size: int

    def __call__(self, scores: Floats, history: Ids, n_new: int) -> None:
        """Change `scores`, float32 [V], in place."""
        if len(history) >= self.size:
            _forbid(scores, _followers(history, history[len(history) - self.size + 1 :]))

    def spares(self, token: int, history: Ids, n_new: int) -> bool:
        """Say whether it is left alone; see `Penalty`."""
        if len(history) < self.size:
            return True
        followers = _followers(history, history[len(history) - self.size + 1 :])
        return not bool((followers == token).any())


@attrs.frozen
class SourceNgram:
    """Forbid every token that would complete an n-gram of what the model was given."""

    size: int
    source: Ids = attrs.field(eq=False)

    def __call__(self, scores: Floats, history: Ids, n_new: int) -> None:
        """Change `scores`, float32 [V], in place."""
        if len(history) + 1 >= self.size:
            _forbid(scores, _followers(self.source, history[len(history) - self.size + 1 :]))

    def spares(self, token: int, history: Ids, n_new: int) -> bool:
        """Say whether it is left alone; see `Penalty`."""
        if len(history) + 1 < self.size:
            return True
        followers = _followers(self.source, history[len(history) - self.size + 1 :])
        return not bool((followers == token).any())


@attrs.frozen
class MinNewTokens:
    """Forbid the end tokens until the answer has `least` tokens."""

    least: int
    eos_ids: Ids = attrs.field(eq=False)

    def __call__(self, scores: Floats, history: Ids, n_new: int) -> None:
        """Change `scores`, float32 [V], in place."""
        if n_new < self.least:
            _forbid(scores, self.eos_ids)

    def spares(self, token: int, history: Ids, n_new: int) -> bool:
        """Say whether it is left alone; see `Penalty`."""
        return n_new >= self.least or not bool((self.eos_ids == token).any())


@attrs.frozen
class ForcedFirst:
    """Allow one token only behind a single one, which is where a seq2seq answer begins."""

    token: int

    def __call__(self, scores: Floats, history: Ids, n_new: int) -> None:
        """Change `scores`, float32 [V], in place."""
        if len(history) == 1:
            _allow_only(scores, self.token, "forced_bos_token_id")

    def spares(self, token: int, history: Ids, n_new: int) -> bool:
        """Say whether it is left alone; see `Penalty`."""
        return len(history) != 1


@attrs.frozen
class ForcedLast:
    """Allow one token only as the last that there is room for."""

    token: int
    limit: int

    def __call__(self, scores: Floats, history: Ids, n_new: int) -> None:
        """Change `scores`, float32 [V], in place."""
        if n_new == self.limit - 1:
            _allow_only(scores, self.token, "forced_eos_token_id")

    def spares(self, token: int, history: Ids, n_new: int) -> bool:
        """Say whether it is left alone; see `Penalty`."""
        return n_new != self.limit - 1


@attrs.frozen
class SuppressTokens:
    """Forbid some tokens everywhere."""

    token_ids: Ids = attrs.field(eq=False)

    def __call__(self, scores: Floats, history: Ids, n_new: int) -> None:
        """Change `scores`, float32 [V], in place."""
        _forbid(scores, self.token_ids)

    def spares(self, token: int, history: Ids, n_new: int) -> bool:
        """Say whether it is left alone; see `Penalty`."""
        return not bool((self.token_ids == token).any())


def _followers(text: Ids, prefix: Ids) -> Ids:
    """Return the token behind each place where a text, int64 [T], has a prefix."""
    starts = np.arange(len(text) - len(prefix))
    for offset, wanted in enumerate(prefix):
        starts = starts[text[starts + offset] == wanted]
    found: Ids = text[starts + len(prefix)]
    return found


def _forbid(scores: Floats, token_ids: Ids) -> None:
    scores[token_ids[token_ids < len(scores)]] = -np.inf


def _allow_only(scores: Floats, token: int, name: str) -> None:
    if token >= len(scores):
        raise TaskError(
            f"{name} is {token}; expected an id below {len(scores)}, the size of the model's head"
        )
    scores[:] = -np.inf
    scores[token] = 0


def penalties(
    options: Generation,
    *,
    eos_ids: Iterable[int] = (),
    limit: int | None = None,
    source: Ids | None = None,
) -> tuple[Penalty, ...]:
    """Return the steps that greedy decoding has too, in transformers' order; often none.

    Args:
        options: what is asked for.
        eos_ids: ids that end an answer.
        limit: the most tokens that there is room for; `options.max_new_tokens` if None.
        source: what the model was given, int64 [P]; None for nothing.
    """
    ends = np.array(sorted(set(eos_ids)), dtype=np.int64)
    steps: list[Penalty] = []
    if options.repetition_penalty != 1:
        steps.append(RepetitionPenalty(options.repetition_penalty))
    if options.no_repeat_ngram_size > 0:
        steps.append(NoRepeatNgram(options.no_repeat_ngram_size))
    if options.encoder_no_repeat_ngram_size > 0 and source is not None:
        steps.append(SourceNgram(options.encoder_no_repeat_ngram_size, source))
    if options.min_new_tokens > 0 and len(ends):
        steps.append(MinNewTokens(options.min_new_tokens, ends))
    if options.forced_bos_token_id is not None:
        steps.append(ForcedFirst(options.forced_bos_token_id))
    if options.forced_eos_token_id is not None:
        steps.append(ForcedLast(options.forced_eos_token_id, limit or options.max_new_tokens))
    if options.suppress_tokens:
        steps.append(SuppressTokens(np.array(options.suppress_tokens, dtype=np.int64)))
    return tuple(steps)


class Sampler:
    """Chooses one row's tokens. It holds the row's random state, so every row has its own.

    A row with a seed gets the same tokens alone and in a batch, since it draws exactly one number
    a token.

    Args:
        options: how to choose.
        eos_ids: ids that end an answer; needed for `min_new_tokens`.
        limit: the most tokens that there is room for; `options.max_new_tokens` if None.
        source: what the model was given, int64 [P]; for `encoder_no_repeat_ngram_size`.
        seed: for the draws; `options.seed` if None, and if that is None too, the system's entropy.
        more: steps that greedy decoding has too, behind those of the options.
    """

    def __init__(
        self,
        options: Generation,
        *,
        eos_ids: Iterable[int] = (),
        limit: int | None = None,
        source: Ids | None = None,
        seed: int | None = None,
        more: Iterable[Penalty] = (),
    ) -> None:
        self.options = options
        own = penalties(options, eos_ids=eos_ids, limit=limit, source=source)
        self._penalties = (*own, *more)
        self._filters = filters(options)
        self._rng = np.random.default_rng(options.seed if seed is None else seed)
        self._scratch: Floats = np.empty((2, 0), dtype=np.float32)

    @property
    def is_argmax(self) -> bool:
        """Whether the choice is the raw logits' argmax, whatever the history."""
        return self.options.temperature == 0 and not self._penalties

    def choose(self, logits: Floats, history: Ids, n_new: int) -> int:
        """Return the next token.

        Args:
            logits: float32 [V]; only read, and not kept.
            history: int64 [T], the ids so far, those of the prompt included.
            n_new: how many of them the answer has.

        Raises:
            ModelError: the logits are not numbers.
            TaskError: the options forbid every token. transformers raises in torch when it
                samples, and takes token 0 when it is greedy; here both are an error.
        """
        if self.options.temperature == 0:
            best = int(logits.argmax())
            # Most tokens are no penalty's concern: then nothing is copied.
            if all(penalty.spares(best, history, n_new) for penalty in self._penalties):
                self._check(logits[best], logits)
                return best
        with np.errstate(all="ignore"):  # infinities are looked at below
            scores, desk = self._scores(logits, history, n_new)
            best = int(scores.argmax())
            self._check(scores[best], logits)
            if self.options.temperature == 0:
                return best
            kept = self._keep(scores, desk)
            picked = scores if kept is None else scores[kept]
            index = draw(picked, self._rng, desk)
        return index if kept is None else int(kept[index])

    def process(self, logits: Floats, history: Ids, n_new: int) -> Floats:
        """Return what is drawn from: fresh float32 [V], -inf where a token was ruled out.

        It is for looking and for tests; `choose` does not build it.
        """
        with np.errstate(all="ignore"):
            scores, desk = self._scores(logits, history, n_new)
            kept = self._keep(scores, desk)
        if kept is None:
            return scores.copy()
        whole = np.full_like(scores, -np.inf)
        whole[kept] = scores[kept]
        return whole

    def is_near(self, logits: Floats, history: Ids, n_new: int, margin: float) -> bool:
        """Return whether rounding could make a greedy choice another one.

        Args:
            logits: float32 [V], as for `choose`.
            history: int64 [T], the ids so far.
            n_new: how many of them the answer has.
            margin: how far two logits may be from what they should be, together.
        """
        if self.is_argmax:
            scores = logits
        else:
            with np.errstate(all="ignore"):
                scores, _ = self._scores(logits, history, n_new)
            penalty = self.options.repetition_penalty  # which widens a difference too
            margin *= max(penalty, 1 / penalty)
        return int(np.count_nonzero(scores >= scores.max() - np.float32(margin))) > 1

    def _scores(self, logits: Floats, history: Ids, n_new: int) -> tuple[Floats, Floats]:
        """Return the penalised, tempered logits, and a desk as large; both only until the next call."""
        if self._scratch.shape[1] != len(logits):
            self._scratch = np.empty((2, len(logits)), dtype=np.float32)
        scores, desk = self._scratch
        temperature = np.float32(self.options.temperature)
        if not self._penalties:
            if temperature in (0, 1):
                return logits, desk
            return np.divide(logits, temperature, out=scores), desk
        np.copyto(scores, logits)
        for penalise in self._penalties:
            penalise(scores, history, n_new)
        if temperature not in (0, 1):
            scores /= temperature
        return scores, desk

    def _keep(self, scores: Floats, desk: Floats) -> Ids | None:
        """Return the ids that may be drawn, ascending; None for all of them."""
        kept: Ids | None = None
        for narrow in self._filters:
            positions = narrow(scores if kept is None else scores[kept], desk)
            if positions is not None:
                kept = positions if kept is None else kept[positions]
        return kept

    def _check(self, top: np.float32, logits: Floats) -> None:
        # argmax prefers NaN to any number, so the top one tells about them all. Greedy accepts +inf
        # as torch's argmax does; a draw cannot, since inf - inf is no number.
        if not np.isfinite(top) and not (top > 0 and self.options.temperature == 0):
            raise no_choice(self.options, logits)


def no_choice(options: Generation, logits: Floats) -> LmkitError:
    """Return why no token can be chosen from logits, float32 [..., V]: they, or the options."""
    if not np.isfinite(logits.max()):
        return ModelError(
            f"the model's logits have no finite maximum (it is {logits.max()}), so no token "
            "can be chosen; its weights or its precision are broken"
        )
    return TaskError(
        f"{options!r} leaves no token to choose; expected options that allow one, such as "
        "a larger no_repeat_ngram_size, fewer min_new_tokens or a higher temperature"
    )


def draw(scores: Floats, rng: np.random.Generator, desk: Floats | None = None) -> int:
    """Return a position drawn with the softmax of `scores`, using one number of `rng`.

    Args:
        scores: float32 [K], not all -inf; what is -inf is never drawn.
        rng: advanced by one double.
        desk: float32 [K] or longer to reckon in; fresh memory if None.
    """
    weights = exponentials(scores, desk)
    # First the block, then the place in it: summing 256k weights one by one takes milliseconds.
    n_even = len(weights) // _BLOCK * _BLOCK
    sums = weights[:n_even].reshape(-1, _BLOCK).sum(axis=1, dtype=np.float64)
    blocks = np.cumsum(np.append(sums, weights[n_even:].sum(dtype=np.float64)))
    aim = rng.random() * blocks[-1]
    # side="right" steps over what has no probability, also when the number drawn is 0.
    block = int(np.searchsorted(blocks, aim, side="right"))
    inside = weights[block * _BLOCK : (block + 1) * _BLOCK]
    if block:
        aim -= blocks[block - 1]
    within = np.cumsum(inside, dtype=np.float64)
    index = int(np.searchsorted(within, aim, side="right"))
    # The block was summed in another order, so rounding may leave the aim just past its end.
    last = int(np.flatnonzero(inside)[-1])
    return block * _BLOCK + min(index, last)
