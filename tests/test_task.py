from typing import ClassVar

import attrs
import pytest

import lmkit as lk
from lmkit.errors import TaskError, UnknownOption
from lmkit.family import Family

QA = lk.context("Q: {q}") + lk.target(" {a}")


@attrs.frozen
class HidingCollator:
    """A masked collator's outside: only its family counts here."""

    max_length: int = 8
    family: ClassVar = Family.MASKED

    def encode(self, segments, tokenizer, *, delimited): ...
    def whole(self, segments, tokenizer, *, delimited): ...
    def prompt(self, segments, tokenizer, *, delimited): ...
    def within(self, most, target): ...
    def feed(self, rows, tokenizer): ...
    def measured(self, rows, tokenizer): ...
    def collate(self, rows, pad_id): ...


@attrs.frozen
class PairCollator(HidingCollator):
    family: ClassVar = Family.SEQ2SEQ


@attrs.frozen
class GuessDecoder:
    families: ClassVar = frozenset({Family.MASKED})
    stop: ClassVar = ()

    def read(self, text): ...


def build(**changes):
    parts = {
        "name": "t",
        "formatter": QA,
        "collator": lk.CausalCollator(),
        "decoder": lk.TextDecoder(),
    }
    return lk.Task(**(parts | changes))


class TestPartsThatDoNotFit:
    def test_a_masked_collator_and_a_text_decoder_are_both_named(self):
        with pytest.raises(
            TaskError,
            match="a HidingCollator makes masked rows, and a TextDecoder reads causal, seq2seq",
        ):
            build(formatter=lk.context("{q}"), collator=HidingCollator())

    def test_a_causal_collator_and_a_masked_decoder_are_both_named(self):
        with pytest.raises(
            TaskError, match="a CausalCollator makes causal rows, and a GuessDecoder"
        ):
            build(decoder=GuessDecoder())

    def test_a_target_in_a_masked_task_is_named_with_the_collator(self):
        with pytest.raises(
            TaskError, match=r"a HidingCollator chooses .* context\('Q: \{q\}'\) \+"
        ):
            build(collator=HidingCollator(), decoder=GuessDecoder())

    def test_a_causal_task_without_a_target_is_refused(self):
        with pytest.raises(TaskError, match=r"has no target\(\.\.\.\), so a CausalCollator"):
            build(formatter=lk.context("{q}"))

    def test_text_after_the_last_target_of_a_causal_task_is_refused(self):
        with pytest.raises(TaskError, match=r"context\('!'\) stands after the last target"):
            build(formatter=QA + lk.context("!"))

    def test_that_do_fit_make_a_task_of_the_collators_family(self):
        masked = build(
            formatter=lk.context("{q}"), collator=HidingCollator(), decoder=GuessDecoder()
        )

        assert masked.family is Family.MASKED
        assert build(collator=PairCollator()).family is Family.SEQ2SEQ
        assert build().family is Family.CAUSAL


class TestAPartOfAnotherKind:
    def test_is_refused(self):
        with pytest.raises(TaskError, match="collator is a TextDecoder, not a collator"):
            build(collator=lk.TextDecoder())

    def test_that_is_nearly_one_is_told_what_it_has_not(self):
        class Half:
            columns = prompt_columns = ("q",)
            learns = True

            def segments(self, record, dialect=None):
                return []

        with pytest.raises(
            TaskError,
            match="formatter is a Half, not a formatter: it has no delimited, prompt, stop_tokens, chat_t",
        ):
            build(formatter=Half())

    def test_that_is_a_class_lacks_its_parentheses(self):
        with pytest.raises(TaskError, match=r"decoder is a TextDecoder.*write its parentheses"):
            build(decoder=lk.TextDecoder)

    def test_among_the_metrics_is_refused(self):
        with pytest.raises(TaskError, match="'f1' in metrics is not a metric"):
            build(metrics=["f1"])

    def test_for_generation_is_refused(self):
        with pytest.raises(TaskError, match="generation is not a Generation"):
            build(generation={"top_k": 1})


class TestTheName:
    @pytest.mark.parametrize("name", ["qa", "ko-qa", "qa_2", "v1.5", "질문"])
    def test_is_of_letters_digits_and_a_few_signs(self, name):
        assert build(name=name).name == name

    @pytest.mark.parametrize("name", ["", "-qa", "a b", "a/b", "a:b", "../x", "_x", 3, None])
    def test_of_other_signs_is_refused(self, name):
        with pytest.raises(TaskError, match="a task's name is"):
            build(name=name)


class TestEvolving:
    def test_replaces_a_part_and_leaves_the_task_as_it_was(self):
        task = build()
        longer = task.evolve(name="u", collator=lk.CausalCollator(max_length=8))

        assert (longer.name, longer.collator.max_length) == ("u", 8)
        assert task == build()

    def test_checks_the_whole_anew(self):
        with pytest.raises(TaskError, match="HidingCollator"):
            build().evolve(collator=HidingCollator())

    def test_refuses_a_misspelt_part_with_the_near_name(self):
        with pytest.raises(UnknownOption, match="close to: collator"):
            build().evolve(colator=lk.CausalCollator())


class TestTheReference:
    """What a record's answer would be had the model written it."""

    def test_is_the_target_as_the_decoder_reads_it(self, toy):
        assert build().reference({"q": "1+1", "a": "2 "}, toy.dialect) == "2"

    def test_of_a_chat_is_its_last_answer_without_the_end_token(self, toy):
        task = build(formatter=lk.Chat(template="chatml"))
        turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
        record = {"messages": [{"role": role, "content": content} for role, content in turns]}

        assert task.reference(record, toy.dialect) == "d"

    @pytest.mark.parametrize("end", ["<|im_end|>", "<|endoftext|>", "<s>"])
    def test_keeps_an_end_token_that_the_record_spells_out(self, end, toy):
        chat = build(formatter=lk.Chat.of(user="{q}", assistant="{a}", template="chatml"))
        record = {"q": "how does a turn end?", "a": f"with {end}"}

        assert build().reference(record, toy.dialect) == f"with {end}"
        assert chat.reference(record, toy.dialect) == f"with {end}"


class TestStopStrings:
    def test_are_the_decoders_and_the_requests(self):
        task = build(decoder=lk.TextDecoder(stop=("###", "\n")))

        assert task.stop_strings(lk.Generation(stop=("END", "###"))) == ("###", "\n", "END")


def test_columns_are_the_formatters():
    assert build().columns == ("q", "a")
    assert build().prompt_columns == ("q",)


def test_a_task_is_short_in_print():
    assert repr(build()) == "Task('t', causal)"


def test_a_task_cannot_be_changed():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        build().name = "u"


def test_a_misspelt_argument_is_refused_with_the_near_name():
    with pytest.raises(UnknownOption, match="close to: decoder"):
        lk.Task(name="t", formatter=QA, collator=lk.CausalCollator(), decodr=lk.TextDecoder())
