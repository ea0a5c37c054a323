"""Texts longer than a window, against the numpy twin that sees one window at a time."""

import numpy as np
import pytest

import lmkit as lk

from .toybundle import write_bundle

BLOCK = 15  # far below the toy's context, so that only the window can be what ends
WINDOW, KEPT = BLOCK + 1, 8
TASK = lk.Task(
    name="text",
    formatter=lk.context("{prompt}").when("prompt") + lk.target("{text}"),
    collator=lk.BlockCollator(block_size=BLOCK),
    decoder=lk.TextDecoder(strip=False),
    generation=lk.Generation(max_new_tokens=50),
)
PROMPTS = ["a", "가나", "What is", "What is it? It is longer than a window."]


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    return lk.load(write_bundle(tmp_path_factory.mktemp("text") / "bundle", task=TASK), threads=1)


def twin(toy, prompt, count, stop):
    """Return the likeliest tokens, each chosen from no more than a block of text."""
    text = prompt.tolist()
    seen = text[-BLOCK:]
    while len(text) < len(prompt) + count:
        token = int(toy.logits(np.array(seen))[-1].argmax())
        text.append(token)
        seen.append(token)
        if token == stop:
            break
        if len(seen) == WINDOW:
            seen = text[-KEPT:]
    return text[len(prompt) :]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_text_goes_on_past_its_window_from_its_last_half(ask, toy, prompt):
    record = {"prompt": prompt}

    answer = ask(record)

    ids = lk.prompt_ids(TASK, record, ask.tokenizer)
    assert list(answer.token_ids) == twin(toy, ids, 50, ask.tokenizer.eos_id)
    assert len(answer.token_ids) > BLOCK


def test_another_task_goes_on_past_a_window_if_it_is_of_one_text_and_else_not(ask):
    alone = TASK.evolve(collator=lk.CausalCollator(max_length=BLOCK))
    record = {"prompt": PROMPTS[0]}

    answer = ask(record)
    other = ask.with_task(alone)

    assert other(record).token_ids != answer.token_ids
    assert other.with_task(TASK)(record).token_ids == answer.token_ids


def test_each_row_of_a_batch_slides_for_itself(ask):
    records = [{"prompt": prompt} for prompt in PROMPTS]

    together = ask.batch(records)

    assert [answer.token_ids for answer in together] == [ask(r).token_ids for r in records]


def test_a_stream_is_the_same_text(ask):
    record = {"prompt": PROMPTS[0]}

    assert "".join(ask.stream(record)) == ask(record).text


def test_a_prompt_of_any_length_is_continued_from_its_end(ask):
    ids = lk.prompt_ids(TASK, {"prompt": PROMPTS[-1]}, ask.tokenizer)
    end = ask.tokenizer.decode(ids[-BLOCK:])

    assert len(ids) > WINDOW
    assert ask({"prompt": PROMPTS[-1]}).token_ids == ask({"prompt": end}).token_ids


def test_penalties_look_back_on_the_whole_text(ask):
    """Every token once: the window forgets, the history does not."""
    answer = ask({"prompt": "a"}, no_repeat_ngram_size=1, max_new_tokens=40)

    assert len(set(answer.token_ids)) == 40


def test_a_check_sees_the_model_as_it_is(ask, toy):
    prompt = lk.prompt_ids(TASK, {"prompt": "a"}, ask.tokenizer)

    assert ask.greedy([prompt], 30)[0] == toy.greedy(prompt, 30)
