"""OpenAI's own wishes, against their formulas."""

import numpy as np
import pytest
from runtime.toybundle import RECORD

from lmkit.batching.penalties import CountPenalty, LogitBias, asked
from lmkit.errors import TaskError


def drawn(alone, prompt, count, change):
    """Return the greedy ids behind a prompt, the logits changed by a function of the ids so far."""
    ids = []
    for _ in range(count):
        logits = alone.forced(prompt, np.array(ids, dtype=np.int64))[-1]
        ids.append(int((logits + change(ids, len(logits))).argmax()))
    return ids


def test_a_bias_is_added_to_the_logits(engine, alone):
    plain = alone(RECORD).token_ids
    bias = {plain[0]: -100.0, 70: 1.5, 71: 0.5}

    def change(ids, size):
        found = np.zeros(size, np.float32)
        found[list(bias)] = list(bias.values())
        return found

    request = engine.prepare(RECORD, logit_bias=bias)
    answer = engine.submit(request).wait(60)

    assert list(answer.token_ids) == drawn(alone, request.prompt, len(answer.token_ids), change)
    assert plain[0] not in answer.token_ids


@pytest.mark.parametrize(("presence", "frequency"), [(1.5, 0.0), (0.0, 2.0), (-1.0, 0.5)])
def test_penalties_count_what_the_answer_has(engine, alone, presence, frequency):
    def change(ids, size):
        counts = np.bincount(np.array(ids, dtype=np.int64), minlength=size)
        return -(presence * (counts > 0) + frequency * counts).astype(np.float32)

    request = engine.prepare(
        RECORD,
        presence_penalty=presence,
        frequency_penalty=frequency,
        options={"max_new_tokens": 12, "stop": ()},
    )
    answer = engine.submit(request).wait(60)

    assert list(answer.token_ids) == drawn(alone, request.prompt, len(answer.token_ids), change)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "penalty",
    [
        CountPenalty(0.7, 0.3),
        CountPenalty(-0.7, 0.3),
        LogitBias(np.array([3, 5]), np.array([-1.0, -9.0], np.float32)),
        LogitBias(np.array([3, 5]), np.array([-1.0, 9.0], np.float32)),
    ],
    ids=repr,
)
def test_what_is_spared_is_the_best_with_and_without(penalty, seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=12).astype(np.float32)
    history, best = rng.integers(0, 12, 9), int(scores.argmax())
    n_new = int(rng.integers(0, 9))
    spared = penalty.spares(best, history, n_new)
    penalty(scores, history, n_new)

    assert not spared or int(scores.argmax()) == best


def test_what_cannot_be_is_refused():
    assert asked({}, 0.0, 0.0, 10) == ()
    for wish in (({10: 1.0}, 0.0, 0.0), ({1: np.nan}, 0.0, 0.0), ({}, np.inf, 0.0)):
        with pytest.raises(TaskError):
            asked(*wish, 10)
