"""A bundle's beams against `generate()` on the model it was exported from, token for token."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from exported import GPT2, ROWS, train_tiny  # noqa: E402

import lmkit as lk  # noqa: E402

pytestmark = pytest.mark.slow

RECORDS = [{"prompt": prompt} for prompt in ("안녕하세요?", "What is 2+2?", "네", "Who? 누구?")]
ENDINGS = (False, True, "never")
STEERED = [
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.3, "min_new_tokens": 6},
    {"encoder_no_repeat_ngram_size": 2, "forced_eos_token_id": 7},
]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def pair(request, tmp_path_factory):
    """Return a bundle and the model it came from."""
    if request.param == "llama":
        run, bundle = (request.getfixturevalue(name) for name in ("tiny_run", "tiny_bundle"))
    else:
        folder = tmp_path_factory.mktemp("gpt2")
        run = train_tiny(folder / "run", model=lk.scratch("gpt2", **GPT2)).path
        bundle = lk.export(run, output=folder / "bundle", data=ROWS).path
    model = transformers.AutoModelForCausalLM.from_pretrained(run)
    return lk.load(bundle, threads=1), model.eval()


def theirs(model, prompt, **options):
    """Return the new ids, up to the end token."""
    ids = torch.tensor(prompt)[None]
    mask = torch.ones_like(ids)
    found = model.generate(ids, attention_mask=mask, do_sample=False, **options)
    written = found[0, len(prompt) :].tolist()
    end = model.generation_config.eos_token_id
    return written[: written.index(end) + 1] if end in written else written


@pytest.mark.parametrize("early_stopping", ENDINGS)
@pytest.mark.parametrize("num_beams", [2, 3, 4])
def test_beams_write_what_generate_writes(pair, num_beams, early_stopping):
    ask, model = pair
    for length_penalty in (-1.0, 0.0, 0.5, 1.0, 2.0):
        options = {
            "max_new_tokens": 12,
            "num_beams": num_beams,
            "length_penalty": length_penalty,
            "early_stopping": early_stopping,
        }

        answers = ask.batch(RECORDS, **options)

        expected = [theirs(model, ask.prompt(record), **options) for record in RECORDS]
        assert [list(answer.token_ids) for answer in answers] == expected


@pytest.mark.parametrize("steered", STEERED, ids=lambda steered: "-".join(steered))
@pytest.mark.parametrize("num_beams", [1, 3])
def test_steered_answers_are_generates(pair, steered, num_beams):
    ask, model = pair
    options = {"max_new_tokens": 12, "num_beams": num_beams, **steered}

    answers = ask.batch(RECORDS, **options)

    expected = [theirs(model, ask.prompt(record), **options) for record in RECORDS]
    assert [list(answer.token_ids) for answer in answers] == expected
