"""Every step against transformers' own processor, on random and on awkward rows."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
logits_process = pytest.importorskip("transformers.generation.logits_process")

from transformers import GenerationConfig, GenerationMixin  # noqa: E402

from lmkit.generation import Generation  # noqa: E402
from lmkit.runtime.sampling import Sampler  # noqa: E402

EOS = (1, 3)
INF = float("inf")


def _rows():
    rng = np.random.default_rng(0)
    for size in (4, 5, 17, 300, 5000):
        normal = rng.standard_normal(size)
        yield f"normal-{size}", normal * 4
        yield f"peaked-{size}", normal * 40
        yield f"flat-{size}", normal * 1e-3
        yield f"ties-{size}", np.round(normal)
        yield f"equal-{size}", np.zeros(size)
        holes = normal.copy()
        holes[::2] = -INF
        yield f"holes-{size}", holes
    yield "extreme", np.array([3e38, -3e38, 1e-40, 0.0, -1.0, 1.0])
    yield "far-apart", np.array([1e4, 0, -1e4, 9.999e3])


ROWS = {name: scores.astype(np.float32) for name, scores in _rows()}
HISTORIES = {
    "one": [2],
    "repeats": [0, 0, 2, 2, 0, 0],
    "cycle": [0, 1, 2, 0, 1, 2, 0, 1],
    "beyond-head": [0, 10**6, 2, 10**6],
}


def theirs(processors, logits, history):
    ids = torch.tensor([history])
    return processors(ids, torch.from_numpy(logits.copy())[None])[0].numpy()


def ours(logits, history, n_new, *, source=None, **options):
    if source is not None:
        source = np.array(source, dtype=np.int64)
    sampler = Sampler(Generation(**options), eos_ids=EOS, source=source, seed=0)
    return sampler.process(logits, np.array(history, dtype=np.int64), n_new)


def assert_same(actual, expected):
    """Compare scores; where equal scores stand at an edge, which of them stay is up to the sort."""
    np.testing.assert_allclose(np.sort(actual), np.sort(expected), rtol=1e-5, atol=1e-5)
    differ = ~np.isclose(actual, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert len(np.unique(np.maximum(actual, expected)[differ])) <= 1


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("penalty", [1.3, 0.7])
def test_the_repetition_penalty_equals_theirs(name, history, penalty):
    processor = logits_process.RepetitionPenaltyLogitsProcessor(penalty)

    assert_same(
        ours(ROWS[name], HISTORIES[history], 0, repetition_penalty=penalty),
        theirs(processor, ROWS[name], HISTORIES[history]),
    )


@pytest.mark.parametrize("name", ["normal-4", "normal-17", "holes-300"])
@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("size", range(1, 10))
def test_ngrams_are_forbidden_as_theirs_are(name, history, size):
    processor = logits_process.NoRepeatNGramLogitsProcessor(size)

    assert_same(
        ours(ROWS[name], HISTORIES[history], 0, no_repeat_ngram_size=size),
        theirs(processor, ROWS[name], HISTORIES[history]),
    )


def test_ngrams_of_random_histories_are_forbidden_as_theirs_are():
    rng = np.random.default_rng(1)
    logits = ROWS["normal-5"]
    for _ in range(300):
        history = rng.integers(0, 5, rng.integers(1, 40)).tolist()
        size = int(rng.integers(1, 6))

        assert_same(
            ours(logits, history, 0, no_repeat_ngram_size=size),
            theirs(logits_process.NoRepeatNGramLogitsProcessor(size), logits, history),
        )


@pytest.mark.parametrize("n_new", [0, 1, 2, 3])
def test_end_tokens_wait_as_theirs_do(n_new):
    history = [0, 2, 4, *[2] * n_new]
    processor = logits_process.MinNewTokensLengthLogitsProcessor(3, 2, torch.tensor(EOS))

    assert_same(
        ours(ROWS["normal-17"], history, n_new, min_new_tokens=2),
        theirs(processor, ROWS["normal-17"], history),
    )


def test_ngrams_of_what_was_given_are_forbidden_as_theirs_are():
    rng = np.random.default_rng(4)
    logits = ROWS["normal-5"]
    for _ in range(300):
        source, history = (rng.integers(0, 5, rng.integers(1, 20)).tolist() for _ in range(2))
        size = int(rng.integers(1, 6))
        processor = logits_process.EncoderNoRepeatNGramLogitsProcessor(size, torch.tensor([source]))

        assert_same(
            ours(logits, history, 0, source=source, encoder_no_repeat_ngram_size=size),
            theirs(processor, logits, history),
        )


@pytest.mark.parametrize("history", [[2], [2, 4], [2, 4, 2]])
def test_the_first_token_is_forced_where_theirs_is(history):
    processor = logits_process.ForcedBOSTokenLogitsProcessor(3)

    assert_same(
        ours(ROWS["normal-17"], history, 0, forced_bos_token_id=3),
        theirs(processor, ROWS["normal-17"], history),
    )


@pytest.mark.parametrize("n_new", range(4))
def test_the_last_token_is_forced_where_theirs_is(n_new):
    history = [2, 4, *[0] * n_new]
    processor = logits_process.ForcedEOSTokenLogitsProcessor(2 + 4, 3)

    assert_same(
        ours(ROWS["normal-17"], history, n_new, forced_eos_token_id=3, max_new_tokens=4),
        theirs(processor, ROWS["normal-17"], history),
    )


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("temperature", [0.1, 0.7, 3.0])
def test_temperature_equals_theirs(name, temperature):
    assert_same(
        ours(ROWS[name], [2], 0, temperature=temperature),
        theirs(logits_process.TemperatureLogitsWarper(temperature), ROWS[name], [2]),
    )


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("k", [1, 2, 5, 50, 4999, 5000, 6000])
def test_top_k_equals_theirs(name, k):
    actual = ours(ROWS[name], [2], 0, temperature=1.0, top_k=k)

    np.testing.assert_array_equal(
        actual, theirs(logits_process.TopKLogitsWarper(k), ROWS[name], [2])
    )


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.9, 0.95, 0.999])
def test_top_p_equals_theirs(name, p):
    actual = ours(ROWS[name], [2], 0, temperature=1.0, top_p=p)

    assert_same(actual, theirs(logits_process.TopPLogitsWarper(p), ROWS[name], [2]))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.99])
def test_min_p_equals_theirs(name, p):
    assert_same(
        ours(ROWS[name], [2], 0, temperature=1.0, min_p=p),
        theirs(logits_process.MinPLogitsWarper(p), ROWS[name], [2]),
    )


class _Model:
    """The little of a model that `_get_logits_processor` looks at."""

    class config:  # noqa: N801
        is_encoder_decoder = False

    _merge_criteria_processor_list = GenerationMixin._merge_criteria_processor_list


def their_chain(options, prompt):
    """Return the processors that `generate()` would use, in its order."""
    config = GenerationConfig(
        do_sample=options["temperature"] > 0,
        **{name: given for name, given in options.items() if given or name == "top_k"},
    )
    config._eos_token_tensor = torch.tensor(EOS)
    config.max_length = len(prompt) + options.get("max_new_tokens", 128)
    return GenerationMixin._get_logits_processor(
        _Model(),
        config,
        input_ids_seq_length=len(prompt),
        encoder_input_ids=torch.tensor([prompt]),
        device="cpu",
    )


def test_suppressed_tokens_are_theirs():
    processor = logits_process.SuppressTokensLogitsProcessor([3, 0, 10**6])

    assert_same(
        ours(ROWS["normal-17"], [2], 0, suppress_tokens=[3, 0, 10**6]),
        theirs(processor, ROWS["normal-17"], [2]),
    )


def test_whole_chains_equal_those_that_generate_builds():
    rng = np.random.default_rng(2)
    names = [name for name in ROWS if not name.startswith(("extreme", "equal", "ties"))]
    for _ in range(400):
        logits = ROWS[str(rng.choice(names))]
        prompt_length, n_new = int(rng.integers(1, 9)), int(rng.integers(0, 9))
        history = rng.integers(0, len(logits), prompt_length + n_new).tolist()
        options = {
            "repetition_penalty": float(rng.choice([1.0, 1.2, 0.8])),
            "no_repeat_ngram_size": int(rng.choice([0, 2, 3])),
            "encoder_no_repeat_ngram_size": int(rng.choice([0, 1, 3])),
            "min_new_tokens": int(rng.choice([0, 3, 6])),
            "max_new_tokens": 9,
            "forced_bos_token_id": rng.choice([None, None, 2]),
            "forced_eos_token_id": rng.choice([None, None, 3]),
            "suppress_tokens": [0, 1] if rng.random() < 0.3 else [],
            "temperature": float(rng.choice([0.0, 0.3, 1.0, 1.7])),
            "top_k": int(rng.choice([0, 1, 3, 40])),
            "top_p": float(rng.choice([1.0, 0.9, 0.4])),
            "min_p": float(rng.choice([0.0, 0.05, 0.3])),
        }
        if options["temperature"] == 0:
            options |= {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
        prompt = history[:prompt_length]
        expected = theirs(their_chain(options, prompt), logits, history)
        if not np.isfinite(expected).any():
            continue

        assert_same(ours(logits, history, n_new, source=prompt, **options), expected)


def test_greedy_tokens_equal_the_argmax_of_their_chain():
    rng = np.random.default_rng(3)
    for _ in range(100):
        logits = ROWS["normal-300"]
        history = rng.integers(0, 300, 20).tolist()
        options = {"repetition_penalty": 3.0, "no_repeat_ngram_size": 1, "temperature": 0.0}
        sampler = Sampler(Generation(**options))

        token = sampler.choose(logits, np.array(history), 5)

        assert token == theirs(their_chain(options, history[:15]), logits, history).argmax()
