"""Answers: what is asked for, what comes out, and what a request may not do to another."""

import threading

import numpy as np
import pytest

import lmkit as lk
from lmkit.decoding.text import TextDecoder
from lmkit.encoding import IGNORE, encode, prompt_ids
from lmkit.errors import PromptTooLong, RecordError, TaskError, UnknownOption

from .toybundle import CONTEXT_LENGTH, RECORD, RECORDS, TASK

SAMPLED = {"temperature": 0.9, "top_p": 0.95, "seed": 3}


class TestACall:
    def test_it_writes_what_the_model_finds_likeliest(self, ask, toy):
        prompt = prompt_ids(TASK, RECORD, ask.tokenizer)

        answer = ask(RECORD, max_new_tokens=10)

        wanted = toy.greedy(prompt, 10)
        assert list(answer.token_ids) == wanted[: len(answer.token_ids)]
        assert answer.text == ask.tokenizer.decode(answer.token_ids)

    def test_it_follows_the_tasks_own_settings(self, ask):
        assert len(ask(RECORD).token_ids) == TASK.generation.max_new_tokens

    def test_an_option_counts_for_one_call_only(self, ask):
        before = ask(RECORD)

        ask(RECORD, temperature=1, max_new_tokens=3, seed=1)

        assert ask(RECORD) == before

    def test_a_misspelt_option_is_refused_with_the_near_name(self, ask):
        with pytest.raises(UnknownOption, match=r"'temprature'(.|\n)*close to: temperature"):
            ask(RECORD, temprature=0.5)

    @pytest.mark.parametrize("ways", ["call", "batch", "stream"])
    def test_a_negative_temperature_is_refused_before_anything_is_written(self, ask, ways):
        how = {
            "call": lambda: ask(RECORD, temperature=-1),
            "batch": lambda: ask.batch([RECORD], temperature=-1),
            "stream": lambda: ask.stream(RECORD, temperature=-1),
        }[ways]

        with pytest.raises(TaskError, match="temperature is -1"):
            how()

    def test_a_missing_column_is_named(self, ask):
        with pytest.raises(RecordError, match="'prompt'"):
            ask({"promt": "x"})

    def test_a_column_of_the_wrong_type_is_named(self, ask):
        with pytest.raises(RecordError, match="'prompt'"):
            ask({"prompt": {"x": 1}})


class TestTheEnd:
    def test_an_end_token_stops_and_counts_and_is_not_shown(self, saying):
        ask = saying(" 네!")

        answer = ask(RECORD)

        assert (answer.text, answer.value, answer.finish_reason) == (" 네!", "네!", "stop")
        assert answer.token_ids[-1] == ask.tokenizer.eos_id
        assert answer.usage.completion_tokens == len(ask.tokenizer.encode(" 네!")) + 1
        assert answer.usage.prompt_tokens == len(prompt_ids(TASK, RECORD, ask.tokenizer))

    def test_length_is_the_reason_where_the_limit_came_first(self, ask):
        answer = ask(RECORD, max_new_tokens=5)

        assert answer.finish_reason == "length"
        assert answer.usage.completion_tokens == len(answer.token_ids) == 5

    def test_an_end_token_at_the_limit_is_a_stop(self, saying):
        ask = saying(" 네!")

        assert ask(RECORD, max_new_tokens=len(ask(RECORD).token_ids)).finish_reason == "stop"

    @pytest.mark.parametrize("stop", ["하세", "요!", "네,", " "])
    def test_a_stop_string_is_cut_wherever_tokens_end(self, saying, stop):
        """Each Hangul syllable is three tokens here, so every one of these straddles tokens."""
        ask = saying(" 네, 안녕하세요! 반가워요.")
        whole = ask(RECORD, max_new_tokens=99).text

        answer = ask(RECORD, max_new_tokens=99, stop=stop)

        assert whole == " 네, 안녕하세요! 반가워요."
        assert answer.text == whole[: whole.index(stop)]
        assert answer.finish_reason == "stop"
        assert "".join(ask.stream(RECORD, max_new_tokens=99, stop=stop)) == answer.text

    def test_what_might_have_been_a_stop_string_is_shown_after_all(self, saying):
        ask = saying(" 네##", ends=True)

        assert ask(RECORD, stop="###").text == " 네##"
        assert "".join(ask.stream(RECORD, stop="###")) == " 네##"

    def test_the_tasks_own_stop_strings_count_too(self, saying):
        task = TASK.evolve(decoder=TextDecoder(stop=("!",)))

        assert saying(" 네! 네!", task=task)(RECORD).text == " 네"

    def test_no_end_token_before_min_new_tokens(self, saying):
        ask = saying(" 네!")
        usual = len(ask(RECORD).token_ids)

        answer = ask(RECORD, min_new_tokens=usual + 2, max_new_tokens=usual + 2)

        assert ask.tokenizer.eos_id not in answer.token_ids[: usual + 1]
        assert len(answer.token_ids) == usual + 2


class TestTheContext:
    def test_an_answer_fills_it_and_no_more(self, ask):
        answer = ask(RECORD, max_new_tokens=10_000)

        usage = answer.usage
        assert usage.total_tokens == CONTEXT_LENGTH
        assert answer.finish_reason == "length"

    @pytest.mark.parametrize("how", ["__call__", "stream", "batch"])
    def test_a_prompt_beyond_it_is_refused_with_both_lengths(self, ask, how):
        record = {"prompt": "x" * 80}
        n = len(prompt_ids(TASK, record, ask.tokenizer))

        with pytest.raises(PromptTooLong, match=rf"{n} tokens .* {CONTEXT_LENGTH}") as caught:
            getattr(ask, how)([record] if how == "batch" else record)

        assert (caught.value.prompt_tokens, caught.value.context_length) == (n, CONTEXT_LENGTH)

    def test_a_prompt_that_leaves_room_for_one_token_is_answered_with_one(self, ask):
        empty = len(prompt_ids(TASK, {"prompt": ""}, ask.tokenizer))
        record = {"prompt": "x" * (CONTEXT_LENGTH - empty - 1)}

        assert len(ask(record).token_ids) == 1
        with pytest.raises(PromptTooLong):
            ask({"prompt": record["prompt"] + "x"})


class TestAStream:
    @pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
    @pytest.mark.parametrize("record", RECORDS)
    def test_its_pieces_joined_are_the_answer(self, ask, record, options):
        pieces = list(ask.stream(record, **options))

        assert "".join(pieces) == ask(record, **options).text
        assert all(pieces)

    def test_what_it_returns_is_the_whole_answer(self, ask):
        def whole():
            found.append((yield from ask.stream(RECORD)))

        found = []
        list(whole())

        assert found == [ask(RECORD)]

    def test_no_piece_ends_inside_a_character(self, saying):
        text = " 네 👨‍👩‍👧 🇰🇷 값!"
        ask = saying(text)

        pieces = list(ask.stream(RECORD, max_new_tokens=99))

        assert "".join(pieces) == text
        assert "�" not in "".join(pieces)
        assert {"네", "값"} <= {piece.strip() for piece in pieces}
        assert not any(piece.endswith("‍") for piece in pieces)

    def test_it_comes_as_it_is_written(self, saying):
        stream = saying(" 하나 둘 셋").stream(RECORD, max_new_tokens=99)

        assert next(stream) == " "
        assert next(stream) == "하"

    def test_one_that_is_not_read_to_its_end_does_no_harm(self, ask):
        whole = ask(RECORD).text
        stream = ask.stream(RECORD)
        next(stream)
        stream.close()

        assert ask(RECORD).text == whole


class TestABatch:
    def test_ragged_rows_are_answered_as_one_by_one(self, ask):
        assert ask.batch(RECORDS) == [ask(record) for record in RECORDS]

    @pytest.mark.parametrize("size", [1, 2, 3, 100])
    def test_however_many_at_once_and_the_order_is_kept(self, ask, size):
        records = [*RECORDS, *reversed(RECORDS)]

        assert ask.batch(records, batch_size=size) == [ask(record) for record in records]

    def test_a_row_that_ends_early_does_not_disturb_the_others(self, saying):
        ask = saying(" 네")
        alone = ask({"prompt": "Another"}, max_new_tokens=30)

        first, second = ask.batch([RECORD, {"prompt": "Another"}], max_new_tokens=30)

        assert first.text == " 네"
        assert first.finish_reason == "stop"
        assert second == alone
        assert len(second.token_ids) > len(first.token_ids)

    def test_a_seed_draws_the_same_alone_and_in_a_batch(self, ask):
        alone = [ask(record, **SAMPLED) for record in RECORDS]

        assert ask.batch(RECORDS, **SAMPLED) == alone
        assert alone != [ask(record) for record in RECORDS]

    def test_no_records_no_answers(self, ask):
        assert ask.batch([]) == []

    def test_a_batch_of_no_rows_is_refused(self, ask):
        with pytest.raises(TaskError, match="batch_size is 0"):
            ask.batch(RECORDS, batch_size=0)

    def test_a_bad_record_fails_before_the_others_are_answered(self, ask):
        with pytest.raises(RecordError, match=r"record 1.*'prompt'"):
            ask.batch([RECORD, {"question": "x"}])


def test_several_threads_at_once_get_their_own_answers(ask):
    wanted = [ask(record, **SAMPLED) for record in RECORDS]
    found: dict[tuple[int, int], object] = {}

    def work(place):
        for turn in range(5):
            found[place, turn] = ask(RECORDS[place], **SAMPLED)

    threads = [threading.Thread(target=work, args=(i % 4,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == {(place, turn): wanted[place] for place in range(4) for turn in range(5)}


@pytest.mark.parametrize(
    ("record", "options"),
    [
        ({}, {}),
        ({"prompt": "x" * 99}, {}),
        (RECORD, {"no_such": 1}),
        (RECORD, {"no_repeat_ngram_size": 1, "stop": 5}),
    ],
)
def test_a_request_that_fails_leaves_the_next_unharmed(ask, record, options):
    before = ask(RECORD)

    with pytest.raises(lk.LmkitError):
        ask(record, **options)

    assert ask(RECORD) == before
    assert "".join(ask.stream(RECORD)) == before.text


def test_the_score_is_the_loss_by_hand(ask, toy):
    records = [{**record, "completion": "네, yes"} for record in RECORDS]
    rows = encode(TASK, records, ask.tokenizer)
    total, count = 0.0, 0
    for row in rows:
        logits = toy.logits(row.input_ids).astype(np.float64)
        for place, label in enumerate(row.labels[1:]):
            if label != IGNORE:
                total += np.log(np.exp(logits[place]).sum()) - logits[place, label]
                count += 1

    loss = ask.score(rows)

    assert loss.count == count
    assert loss.total == pytest.approx(total, rel=1e-5)


def test_scoring_in_small_parts_gives_the_same(ask, monkeypatch):
    rows = encode(TASK, [{**r, "completion": "네"} for r in RECORDS], ask.tokenizer)
    whole = ask.score(rows)

    monkeypatch.setattr("lmkit.answering.logits.HELD_FLOATS", 1)

    assert ask.score(rows).total == pytest.approx(whole.total, rel=1e-5)


def test_a_bundle_is_evaluated_as_its_score(bundle, ask):
    records = [{**record, "completion": "네"} for record in RECORDS]

    figures = lk.evaluate(bundle, data=records)

    rows = encode(TASK, records, ask.tokenizer)
    assert figures["perplexity"] == pytest.approx(ask.score(rows).figures()["perplexity"], rel=1e-6)
    assert figures["records"] == len(records)


def test_it_says_what_it_is(ask, bundle):
    assert repr(ask) == f"Generator('{bundle}', Task('toy', causal))"
    assert ask.task == TASK


def test_a_batch_whose_logits_would_not_fit_is_written_in_parts(ask, monkeypatch):
    whole = ask.batch(RECORDS, temperature=0)
    monkeypatch.setattr("lmkit.answering.logits.HELD_FLOATS", 1)

    assert ask.batch(RECORDS, temperature=0) == whole


def test_a_forced_last_token_comes_where_the_context_ends(ask):
    answer = ask({"prompt": "x" * 50}, max_new_tokens=500, forced_eos_token_id=7)

    assert answer.usage.prompt_tokens + len(answer.token_ids) == CONTEXT_LENGTH
    assert answer.token_ids[-1] == 7
