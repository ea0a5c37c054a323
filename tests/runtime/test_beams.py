"""The search by hand, the search through a graph, and what it asks of the state; no torch here."""

import itertools
import math

import numpy as np
import pytest

import lmkit as lk
from lmkit.encoding import prompt_ids
from lmkit.errors import ModelError, TaskError
from lmkit.generation import Generation
from lmkit.runtime.beams import BeamSearch, best_of, search

from .toybundle import RECORD, RECORDS, TASK

END = 0


class Table:
    """A session whose model is a function from a text, a tuple of ids, to probabilities."""

    def __init__(self, model):
        self.model = model
        self.orders = []

    def begin(self, prompts, limits):
        self.texts = [tuple(int(token) for token in prompt) for prompt in prompts]
        return self, self._logits()

    def step(self, tokens):
        self.texts = [(*text, token) for text, token in zip(self.texts, tokens, strict=True)]
        return self._logits()

    def reorder(self, rows):
        self.orders.append(list(rows))
        self.texts = [self.texts[row] for row in rows]

    def close(self):
        self.closed = True

    def _logits(self):
        with np.errstate(divide="ignore"):
            return np.log([self.model(text) for text in self.texts]).astype(np.float32)


def hunt(prompt=(9,), limit=4, ends=None, stop_ids=(END,), **options):
    given = np.array(prompt)
    generation = Generation(**{"num_beams": 2, "max_new_tokens": limit, **options})
    return BeamSearch(
        generation, source=given, history=given, limit=limit, stop_ids=stop_ids, ends=ends
    )


def found(model, *, prompt=(9,), **options):
    one = hunt(prompt, **options)
    search(Table(model), [np.array(prompt)], [one])
    return one.best


def random_model(text, vocab_size=4):
    rng = np.random.default_rng([len(text), *text])
    weights = rng.random(vocab_size) ** 3
    return weights / weights.sum()


def log_prob(model, text, prompt=(9,)):
    whole = (*prompt, *text)
    return sum(math.log(model(whole[:at])[whole[at]]) for at in range(len(prompt), len(whole)))


def trap(text):
    """1 is likelier at first, but what follows 2 is surer: greedy goes wrong."""
    return {
        (9,): [0.0, 0.6, 0.4],
        (9, 1): [0.4, 0.3, 0.3],
        (9, 2): [0.95, 0.04, 0.01],
    }.get(text, [0.98, 0.01, 0.01])


class TestTheText:
    def test_a_surer_text_that_begins_less_likely_is_found(self):
        assert found(trap) == [2, END]

    def test_one_end_is_as_good_as_another(self):
        assert found(trap, stop_ids=(END, 2), length_penalty=0) == [2]

    def test_without_an_end_token_it_is_as_long_as_it_may_be(self):
        assert len(found(trap, stop_ids=())) == 4

    @pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.0])
    @pytest.mark.parametrize("prompt", [(9,), (9, 3), (9, 3, 1)])
    def test_with_beams_for_every_text_the_best_of_all_texts_is_found(self, prompt, length_penalty):
        """Nothing is pruned then, so trying all texts out is a reference."""
        limit = 4
        texts = [
            text
            for length in range(1, limit + 1)
            for text in itertools.product(range(4), repeat=length)
            if END not in text[:-1] and (text[-1] == END or length == limit)
        ]

        answer = found(
            random_model,
            prompt=prompt,
            limit=limit,
            num_beams=300,
            length_penalty=length_penalty,
            early_stopping="never",
        )

        best = max(
            texts,
            key=lambda text: log_prob(random_model, text, prompt) / len(text) ** length_penalty,
        )
        assert answer == list(best)

    def test_a_penalty_of_length_decides_between_short_and_long(self):
        def model(text):
            return {(9,): [0.5, 0.5, 0.0], (9, 1): [0.0, 0.9, 0.1]}.get(text, [0.9, 0.1, 0.0])

        assert found(model, length_penalty=0.0, limit=3) == [END]
        assert found(model, length_penalty=1.0, limit=3) == [1, 1, END]

    def test_early_stopping_ends_before_a_better_text_is_whole(self):
        def model(text):
            if len(text) == 1:
                return [0.5, 0.5, 0.0]
            return [0.4, 0.6, 0.0] if len(text) == 2 else [0.99, 0.01, 0.0]

        options = {"limit": 6, "length_penalty": 2.0}

        assert len(found(model, early_stopping=True, **options)) == 2
        assert len(found(model, early_stopping="never", **options)) == 3

    def test_never_waits_for_what_only_its_length_makes_better(self):
        """Behind [1, 1] everything is sure, so ten tokens cost no more than two."""

        def model(text):
            if len(text) >= 3:
                return [0.0, 1.0, 0.0]
            return [0.5, 0.3, 0.2] if len(text) == 1 else [0.9, 0.1, 0.0]

        assert found(model, limit=10, early_stopping=False) == [1, END]
        assert found(model, limit=10, early_stopping="never") == [1] * 10

    def test_never_expects_nothing_of_length_where_length_is_no_merit(self):
        def model(text):
            return [1.0, 0.0, 0.0] if len(text) == 3 else [0.1, 0.9, 0.0]

        answer = found(model, limit=30, length_penalty=-1.0, early_stopping="never")

        assert answer == [1, 1, END]

    def test_every_end_token_leaves_a_place_for_one_that_goes_on(self):
        """All the likeliest continuations end here, and the best text is behind another."""

        def model(text):
            if len(text) == 1:
                return [0.0, 0.6, 0.4, 0.0]
            return [0.45, 0.15, 0.05, 0.35] if len(text) == 2 else [0.98, 0.01, 0.01, 0.0]

        options = {"limit": 6, "length_penalty": 2.0, "early_stopping": "never"}

        assert found(model, stop_ids=(END, 3), **options) == [1, 1, END]

    def test_a_text_that_ends_for_another_reason_is_whole(self):
        answer = found(trap, ends=lambda ids: ids[-1] == 1, length_penalty=0)

        assert answer == [1]

    def test_penalties_look_at_each_beams_own_text(self):
        answer = found(random_model, limit=3, no_repeat_ngram_size=1, stop_ids=(), num_beams=3)

        assert len(set(answer)) == 3


class TestTheRows:
    def test_a_prompt_is_read_once_and_then_has_a_row_for_each_beam(self):
        table = Table(random_model)
        ones = [hunt((9,), num_beams=3), hunt((8,), num_beams=3)]

        search(table, [np.array([9]), np.array([8])], ones)

        assert table.orders[0] == [0, 0, 0, 1, 1, 1]

    def test_a_search_that_ends_leaves_the_batch_and_changes_no_other(self):
        prompts = [(9,), (9, 1), (9, 2), (7,)]
        ones = [hunt(prompt, limit=6, num_beams=3) for prompt in prompts]
        table = Table(random_model)

        search(table, [np.array(prompt) for prompt in prompts], ones)

        alone = [found(random_model, prompt=prompt, limit=6, num_beams=3) for prompt in prompts]
        assert [one.best for one in ones] == alone
        assert sorted({len(order) for order in table.orders}) != [12]

    def test_rows_stay_where_they_are_while_no_beam_dies(self):
        def two_ways(text):
            if len(text) == 1:
                return [0.0, 0.6, 0.4]
            return [0.0, 0.9, 0.1] if text[1] == 1 else [0.0, 0.1, 0.9]

        table = Table(two_ways)
        search(table, [np.array([9])], [hunt((9,), limit=5)])

        assert table.orders == [[0, 0]]

    def test_a_row_is_copied_to_one_that_nobody_continues(self):
        """So that no copy waits for another: sources keep their place."""
        for prompt in range(20):
            table = Table(random_model)
            search(table, [np.array([prompt])], [hunt((prompt,), limit=8, num_beams=4)])

            assert all(order[source] == source for order in table.orders for source in order)


class TestWhatCannotBe:
    def test_logits_that_are_no_numbers_are_the_models_fault(self):
        with pytest.raises(ModelError, match="no finite maximum"):
            found(lambda text: [math.nan] * 3)

    def test_options_that_forbid_every_token_are_told(self):
        with pytest.raises(TaskError, match="leaves no token to choose"):
            found(random_model, limit=9, no_repeat_ngram_size=1, stop_ids=())

    def test_what_was_whole_before_every_token_was_forbidden_is_the_answer(self):
        answer = found(random_model, limit=9, no_repeat_ngram_size=1, early_stopping="never")

        assert answer[-1] == END

    def test_a_forced_token_beyond_the_head_is_told(self):
        with pytest.raises(TaskError, match="forced_eos_token_id is 99; expected an id below 4"):
            found(random_model, forced_eos_token_id=99)

    def test_a_penalty_under_which_all_texts_score_the_same_is_no_failure(self):
        assert found(trap, length_penalty=1e6)
        with pytest.raises(TaskError, match="lets no text come to an end"):
            found(lambda text: [0.0, 0.6, 0.4], length_penalty=-1e6)


class TestTheBest:
    @pytest.mark.parametrize("size", [1, 5, 2047, 2048, 5000, 50_001])
    @pytest.mark.parametrize("count", [1, 8, 1500])
    def test_are_those_of_a_whole_sort(self, size, count):
        rng = np.random.default_rng(size)
        for scores in (rng.normal(size=size), np.round(rng.normal(size=size)), np.zeros(size)):
            given = scores.astype(np.float32)

            np.testing.assert_array_equal(
                best_of(given, count), np.argsort(-given, kind="stable")[:count]
            )

    def test_of_what_is_ruled_out_come_last(self):
        scores = np.full(9000, -np.inf, dtype=np.float32)
        scores[[7000, 10]] = 1, 2

        assert best_of(scores, 4).tolist() == [10, 7000, 0, 1]


class TestThroughAGraph:
    @pytest.fixture
    def by_hand(self, ask, toy):
        """Return a function that searches with the same model in numpy, the whole text each step."""
        cached = {}

        def probabilities(text):
            if text not in cached:
                logits = toy.logits(np.array(text))[-1].astype(np.float64)
                weights = np.exp(logits - logits.max())
                cached[text] = weights / weights.sum()
            return cached[text]

        def answer(record, **options):
            prompt = prompt_ids(TASK, record, ask.tokenizer)
            limit = options.get("max_new_tokens", 12)
            return found(
                probabilities,
                prompt=tuple(prompt.tolist()),
                limit=limit,
                stop_ids=(ask.tokenizer.eos_id,),
                **{name: given for name, given in options.items() if name != "max_new_tokens"},
            )

        return answer

    @pytest.mark.parametrize("num_beams", [2, 3, 5])
    def test_the_tokens_are_those_of_the_model_in_numpy(self, ask, by_hand, num_beams):
        for record in RECORDS:
            answer = ask(record, num_beams=num_beams)

            assert list(answer.token_ids) == by_hand(record, num_beams=num_beams)

    def test_ragged_prompts_are_answered_together_as_each_alone(self, ask):
        options = {"num_beams": 4, "no_repeat_ngram_size": 2, "max_new_tokens": 20}

        assert ask.batch(RECORDS, **options) == [ask(record, **options) for record in RECORDS]

    def test_the_text_of_a_stream_comes_once(self, ask):
        pieces = list(ask.stream(RECORD, num_beams=3))

        assert pieces == [ask(RECORD, num_beams=3).text]

    def test_the_account_is_of_the_best_text_alone(self, ask):
        answer = ask(RECORD, num_beams=3, max_new_tokens=5)

        assert answer.usage.completion_tokens == len(answer.token_ids) == 5
        assert answer.finish_reason == "length"
        assert answer.text == ask.tokenizer.decode(answer.token_ids)

    def test_an_end_token_and_a_stop_string_end_it(self, saying):
        ask = saying("네, 안녕!")

        ended = ask(RECORD, num_beams=3, max_new_tokens=16)
        stopped = ask(RECORD, num_beams=3, max_new_tokens=16, stop="안")

        assert (ended.text, ended.finish_reason) == ("네, 안녕!", "stop")
        assert ended.token_ids[-1] == ask.tokenizer.eos_id
        assert (stopped.text, stopped.finish_reason) == ("네, ", "stop")
        assert stopped.token_ids == ended.token_ids[: len(stopped.token_ids)]

    def test_a_stop_string_that_might_have_gone_on_ends_it_too(self, saying):
        """A first consonant waits for its vowel; as the last token it is all there is."""
        ask = saying("ab\u1112", ends=False)

        answer = ask(RECORD, num_beams=2, stop="\u1112")
        greedy = ask(RECORD, max_new_tokens=len(ask.tokenizer.encode("ab\u1112")), stop="\u1112")

        assert (answer.text, answer.finish_reason) == ("ab", "stop")
        assert (greedy.text, greedy.finish_reason) == ("ab", "stop")

    def test_the_answer_ends_at_the_context(self, ask):
        record = {"prompt": "x" * 50}

        answer = ask(record, num_beams=2, max_new_tokens=500)

        assert answer.usage.prompt_tokens + answer.usage.completion_tokens == 64

    def test_greedy_calls_are_not_changed_by_a_search_between(self, ask):
        before = ask(RECORD)

        ask(RECORD, num_beams=4)

        assert ask(RECORD) == before

    def test_drawn_beams_are_refused(self, ask):
        with pytest.raises(lk.LmkitError, match="temperature=0 with beams"):
            ask(RECORD, num_beams=4, temperature=0.5)
