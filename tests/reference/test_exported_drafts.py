"""Prompt lookup against transformers' own, `generate(prompt_lookup_num_tokens=...)`, token for token."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import lmkit as lk  # noqa: E402

pytestmark = pytest.mark.slow

RECORDS = [
    {"prompt": prompt} for prompt in ("ababababab", "네, 네, 네, 네", "What is 2+2? What is", "x")
]
OPTIONS = [
    {},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 3},
    {"min_new_tokens": 20},
]


@pytest.fixture(scope="module")
def model(tiny_run):
    return transformers.AutoModelForCausalLM.from_pretrained(tiny_run).eval()


@pytest.fixture
def ask(tiny_bundle, monkeypatch):
    """Return the bundle, which drafts wherever it can."""
    monkeypatch.setattr(
        "lmkit.runtime.pace.Pace.best_count", lambda pace, chance, most: min(5, most)
    )
    return lk.load(tiny_bundle, threads=1)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_the_tokens_are_transformers(ask, model, options):
    options = {"max_new_tokens": 24, "prompt_lookup_num_tokens": 5, **options}
    for record in RECORDS:
        prompt = ask.prompt(record)
        ids = torch.tensor(prompt)[None]
        found = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **options)
        written = found[0, len(prompt) :].tolist()
        end = model.generation_config.eos_token_id
        expected = written[: written.index(end) + 1] if end in written else written

        answer = ask(record, temperature=0, **options)

        assert list(answer.token_ids) == expected
        assert ask._session.pace.is_steady is not False
