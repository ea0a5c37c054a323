import re

import pytest

import lmkit as lk
from lmkit.errors import RecordError, TemplateError, UnknownOption
from lmkit.formatting import Column, Cut, Literal, Piece, Segment, Template, parse_template
from lmkit.saving.jsonform import from_json, to_json


def text(segments):
    return "".join(segment.text for segment in segments)


class TestATemplate:
    def test_writes_columns_where_their_names_stand_in_braces(self):
        assert parse_template("Q: {q}\n") == (Literal("Q: "), Column("q"), Literal("\n"))

    def test_writes_doubled_braces_as_braces(self):
        assert parse_template("{{{q}}} {{}}") == (Literal("{"), Column("q"), Literal("} {}"))

    def test_takes_a_hangul_column(self):
        assert parse_template("{질문}") == (Column("질문"),)

    @pytest.mark.parametrize(
        "cleverer",
        ["{a.b}", "{a[0]}", "{a!r}", "{a:>3}", "{}", "{ a }", "{0}", "{a b}", "{a.__class__}"],
    )
    def test_refuses_anything_but_a_name_in_braces(self, cleverer):
        with pytest.raises(TemplateError, match="only a column's name may stand in braces"):
            lk.context(cleverer)

    @pytest.mark.parametrize("lone", ["{", "}", "a { b", "{a}}", "{{a}", "{a{b}}"])
    def test_refuses_a_lone_brace(self, lone):
        with pytest.raises(TemplateError, match="has a lone"):
            lk.target(lone)

    def test_refuses_what_is_no_string(self):
        with pytest.raises(TemplateError, match="a template is a string, not a int"):
            lk.context(3)

    def test_never_reads_braces_in_a_record(self):
        segments = lk.context("{a}").segments({"a": "{b} {{c}} {a.__class__}"})

        assert text(segments) == "{b} {{c}} {a.__class__}"


class TestSegments:
    def test_context_is_read_and_target_is_learned(self):
        formatter = lk.context("Q: {q}") + lk.target(" {a}")

        assert formatter.segments({"q": "1", "a": "2"}) == [
            Segment("Q: ", learn=False, trusted=True),
            Segment("1", learn=False, trusted=False),
            Segment(" ", learn=True, trusted=True),
            Segment("2", learn=True, trusted=False),
        ]

    def test_the_prompt_is_the_training_text_up_to_the_answer(self):
        formatter = lk.context("Q: {q}\nA:") + lk.target(" {a}")
        record = {"q": "1", "a": "2"}
        prompt = formatter.prompt(record)

        assert formatter.segments(record)[: len(prompt)] == prompt
        assert text(prompt) == "Q: 1\nA:"

    def test_the_prompt_needs_no_answer_column(self):
        formatter = lk.context("{q}") + lk.target("{a}")

        assert text(formatter.prompt({"q": "1"})) == "1"

    def test_numbers_are_written_as_text(self):
        assert text(lk.context("{n} {x}").segments({"n": 3, "x": 0.5})) == "3 0.5"

    @pytest.mark.parametrize("sentences", [["하나.", "Two."], ("하나.", "Two.")])
    def test_a_list_of_sentences_is_joined_with_spaces(self, sentences):
        assert text(lk.context("{q}!").segments({"q": sentences})) == "하나. Two.!"

    def test_an_empty_list_is_no_text_and_leaves_its_piece_out(self):
        formatter = lk.context("a") + lk.context("{q}").when("q")

        assert text(formatter.segments({"q": []})) == "a"
        assert text(formatter.segments({"q": ["", " "]})) == "a"
        assert text(formatter.segments({"q": ["b"]})) == "ab"

    @pytest.mark.parametrize(
        ("content", "found"),
        [(["a", 3], "[1] is a int"), ([None], "[0] is null"), ([["a"]], "[0]")],
    )
    def test_a_list_of_anything_else_is_refused_by_its_place(self, content, found):
        with pytest.raises(RecordError, match=re.escape(f"column 'q'{found}")):
            lk.context("{q}").segments({"q": content})

    @pytest.mark.parametrize(
        ("content", "kind"), [(None, "null"), (True, "a bool"), ({"x"}, "a set"), ({}, "a dict")]
    )
    def test_other_values_are_refused_by_name(self, content, kind):
        with pytest.raises(RecordError, match=f"column 'q' is {kind}, expected text"):
            lk.context("{q}").segments({"q": content})

    def test_a_missing_column_is_named_with_those_that_are_there(self):
        with pytest.raises(RecordError, match="column 'q' is missing; the record has a, b"):
            lk.context("{q}").segments({"a": "1", "b": "2"})


class TestColumns:
    formatter = lk.context("{q} {p}") + lk.context("{hint}").when("mode") + lk.target("{q}{a}")

    def test_are_those_of_every_piece_in_order(self):
        assert self.formatter.columns == ("q", "p", "mode", "hint", "a")

    def test_of_the_prompt_are_those_before_the_first_target(self):
        assert self.formatter.prompt_columns == ("q", "p", "mode", "hint")


class TestWhen:
    formatter = lk.context("Q") + lk.context(" ({hint})").when("hint") + lk.target("{a}")

    def test_keeps_a_piece_whose_column_is_there(self):
        assert text(self.formatter.prompt({"hint": "h"})) == "Q (h)"

    @pytest.mark.parametrize("record", [{}, {"hint": None}, {"hint": ""}, {"hint": " \n"}])
    def test_drops_a_piece_whose_column_is_absent_or_blank(self, record):
        assert text(self.formatter.prompt(record)) == "Q"

    def test_a_zero_is_not_blank(self):
        assert text(self.formatter.prompt({"hint": 0})) == "Q (0)"

    def test_needs_every_column_that_it_names(self):
        piece = lk.context("x").when("a").when("b")

        assert text(piece.segments({"a": "1", "b": "1"})) == "x"
        assert text(piece.segments({"a": "1"})) == ""

    def test_without_a_column_is_refused(self):
        with pytest.raises(TemplateError, match="needs the name of a column"):
            lk.context("x").when()

    def test_a_dropped_first_target_still_ends_the_prompt(self):
        """Else the texts around it would be encoded as one, and the prompt be no prefix."""
        formatter = (
            lk.context("a") + lk.target("{x}").when("x") + lk.context("b") + lk.target("{y}")
        )

        assert formatter.segments({"y": "2"})[:3] == [
            Segment("a", trusted=True),
            Segment("", learn=True),
            Segment("b", trusted=True),
        ]

    def test_a_row_without_any_target_has_nothing_to_learn(self):
        formatter = lk.context("a") + lk.target("{x}").when("x")

        assert not any(segment.learn for segment in formatter.segments({}))


class TestAChoice:
    """Source: seed 004, the prompt that asks about the party that the facts name."""

    formatter = (
        lk.context("{facts}\n")
        + (
            lk.context("Does {first_party} win?")
            | lk.context("Does {second_party} win?")
            | lk.context("Does the complainant win?")
        )
        + lk.target(" {answer}")
    )

    @pytest.mark.parametrize(
        ("parties", "question"),
        [
            ({"first_party": "Roe", "second_party": "Wade"}, "Does Roe win?"),
            ({"first_party": "원고 김"}, "Does 원고 김 win?"),
            ({"second_party": "Wade"}, "Does Wade win?"),
            ({"first_party": "", "second_party": "Wade"}, "Does Wade win?"),
            ({"first_party": " \n", "second_party": None}, "Does the complainant win?"),
            ({"first_party": float("nan")}, "Does the complainant win?"),
            ({"first_party": 0}, "Does 0 win?"),
            ({}, "Does the complainant win?"),
        ],
    )
    def test_is_written_as_its_first_alternative_whose_columns_are_there(self, parties, question):
        record = {"facts": "F.", "answer": "Yes", **parties}

        assert text(self.formatter.prompt(record)) == f"F.\n{question}"
        assert text(self.formatter.segments(record)) == f"F.\n{question} Yes"

    def test_reads_every_column_of_every_alternative(self):
        assert self.formatter.columns == ("facts", "first_party", "second_party", "answer")
        assert self.formatter.prompt_columns == ("facts", "first_party", "second_party")

    def test_leaves_what_comes_from_the_record_untrusted(self):
        choice = lk.context("<{a}>") | lk.context("none")

        assert choice.segments({"a": "x"}) == [
            Segment("<", trusted=True),
            Segment("x", trusted=False),
            Segment(">", trusted=True),
        ]

    def test_that_no_alternative_fits_says_what_each_one_needs(self):
        choice = lk.context("{a}") | lk.context("{b}").when("c")

        with pytest.raises(
            RecordError,
            match=r"context\('\{a\}'\) needs a; .*\.when\('c'\) needs c and b; the record has b$",
        ):
            choice.segments({"a": " ", "b": "1"})

    def test_of_one_alternative_needs_all_its_columns(self):
        choice = lk.context("{a} {b}") + lk.context("!").when("c") | lk.context("-")

        assert text(choice.segments({"a": "1", "b": "2", "c": "3"})) == "1 2!"
        assert text(choice.segments({"a": "1", "b": "2"})) == "-"

    def test_may_depend_on_a_column_as_a_whole(self):
        formatter = lk.context("x") + (lk.context(" {a}") | lk.context(" ?")).when("asked")

        assert text(formatter.segments({"a": "1"})) == "x"
        assert text(formatter.segments({"asked": "y"})) == "x ?"
        assert text(formatter.segments({"asked": "y", "a": "1"})) == "x 1"
        assert formatter.columns == ("asked", "a")

    def test_joined_with_another_is_one_choice(self):
        three = lk.context("{a}") | lk.context("{b}") | lk.context("c")

        assert lk.context("{a}") | (lk.context("{b}") | lk.context("c")) == three

    def test_joined_under_a_condition_keeps_it(self):
        choice = (lk.context("{a}") | lk.context("{b}")).when("c") | lk.context("d")

        assert [text(choice.segments(r)) for r in ({"a": "1"}, {"a": "1", "c": "2"})] == ["d", "1"]

    def test_may_be_among_targets(self):
        formatter = lk.context("q") + (lk.target(" {a}") | lk.target(" none"))

        assert [s.text for s in formatter.segments({}) if s.learn] == [" none"]
        assert text(formatter.prompt({})) == "q"
        assert formatter.learns

    def test_among_what_is_read_and_what_is_learned_is_refused(self):
        with pytest.raises(TemplateError, match="a context and a target to choose from"):
            lk.context("{a}") | lk.target("{b}")

    def test_without_its_parentheses_is_refused(self):
        with pytest.raises(TemplateError, match="set the choice in parentheses"):
            lk.context("{f}") + lk.context("{a}") | lk.context("b") + lk.target("{c}")
        with pytest.raises(TemplateError, match="has a choice inside"):
            lk.context("f") + (lk.context("{a}") | lk.context("b")) | lk.context("c")

    def test_with_an_alternative_that_could_never_be_written_is_refused(self):
        with pytest.raises(
            TemplateError, match=r"context\('\{a\}'\) is never written: .*more first"
        ):
            lk.context("x") | lk.context("{a}")
        with pytest.raises(TemplateError, match=r"gets context\('Q: \{q\}'\), which stands before"):
            lk.context("Q: {q}") | lk.context("Q: {q}\nInput: {input}")
        with pytest.raises(TemplateError, match=r"'\{a\} \{b\}'\) is never written"):
            lk.context("{b}") | lk.context("{c}") | lk.context("{a} {b}")

    def test_is_among_templates_only(self):
        with pytest.raises(TypeError):
            lk.context("{a}") | "b"

    def test_is_printed_as_it_is_written(self):
        assert str(self.formatter) == (
            "context('{facts}\\n') + (context('Does {first_party} win?') | "
            "context('Does {second_party} win?') | context('Does the complainant win?')) + "
            "target(' {answer}')"
        )
        assert str((lk.context("{a}") | lk.context("b")).when("c")) == (
            "(context('{a}') | context('b')).when('c')"
        )
        assert "Choice(alternatives=" in repr(self.formatter)


STANFORD = {
    "prompt_input": (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
    ),
    "prompt_no_input": (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Response:"
    ),
}


class TestAlpaca:
    """Source: tatsu-lab/stanford_alpaca, train.py, PROMPT_DICT; ours adds the newline at its end."""

    formatter = lk.get_task("alpaca").formatter

    def test_with_an_input_writes_stanfords_text(self):
        record = {"instruction": "Add.", "input": "1 {2}", "output": "3"}

        assert text(self.formatter.prompt(record)) == (
            STANFORD["prompt_input"].format(**record) + "\n"
        )

    @pytest.mark.parametrize("blank", ["", "  ", None])
    def test_without_an_input_writes_stanfords_other_text(self, blank):
        record = {"instruction": "Say hi.", "input": blank, "output": "hi"}

        assert text(self.formatter.prompt(record)) == (
            STANFORD["prompt_no_input"].format(**record) + "\n"
        )

    def test_learns_the_output_and_nothing_else(self):
        segments = self.formatter.segments({"instruction": "Say hi.", "output": "hi"})

        assert text(segment for segment in segments if segment.learn) == "hi"


def test_a_piece_is_short_in_print():
    assert str(lk.context("{q}").when("q") + lk.target("x")) == (
        "context('{q}').when('q') + target('x')"
    )


def test_a_misspelt_argument_is_refused_with_the_near_name():
    with pytest.raises(UnknownOption, match="close to: template"):
        Piece(templat="x")


def test_a_template_adds_to_templates_only():
    with pytest.raises(TypeError):
        lk.context("a") + "b"


def test_a_tables_empty_cell_is_blank():
    """pandas and JSON's NaN: the variant without input is the right one, and "nan" is no text."""
    template = lk.context("a{input}").when("input") + lk.target("{o}")

    assert [s.text for s in template.segments({"o": "x", "input": float("nan")})] == ["x"]
    with pytest.raises(RecordError, match="'o' is empty"):
        template.segments({"o": float("nan")})


class TestWhatMayBeCut:
    def test_is_said_of_pieces_and_of_every_alternative_of_a_choice(self):
        formatter = (lk.context("{a}!") | lk.context("-")).cut("right", order=2) + lk.target("{b}")
        said, around, answer = formatter.segments({"a": "x", "b": "y"})

        assert said.cut == Cut("right", 2)
        assert around.cut is answer.cut is None
        assert formatter.segments({"b": "y"})[0].cut is None

    def test_holds_for_the_words_around_a_column_where_all_goes_or_nothing(self):
        for side in ("whole", "never"):
            segments = lk.context("a{b}c").cut(side).segments({"b": "x"})
            assert {segment.cut for segment in segments} == {Cut(side, -1)}

    def test_is_written_as_it_is_in_python(self):
        formatter = lk.context("a{b}").when("b").cut("right") + lk.context("c").cut(
            "never", order=3
        )

        assert str(formatter) == (
            "context('a{b}').when('b').cut('right') + context('c').cut('never', order=3)"
        )

    def test_survives_json_and_leaves_no_trace_where_nothing_is_said(self):
        said = lk.context("{a}").cut("right", order=2) + lk.target("{b}")

        assert from_json(to_json(said), Template) == said
        assert "cut" in str(to_json(said))
        assert "cut" not in str(to_json(lk.context("{a}")))

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"side": "top"}, "cut is 'top'; expected one of left, right, whole, never"),
            ({"side": "left", "order": 0.5}, "cut order is 0.5; expected a whole number"),
        ],
    )
    def test_is_checked(self, options, problem):
        with pytest.raises(TemplateError, match=problem):
            lk.context("{a}").cut(**options)
