from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console

import lmkit as lk
from lmkit.showing import asked, shortened, side_by_side


class TestWhatWasAsked:
    def test_is_the_prompts_columns(self):
        assert asked(lk.get_task("qa"), {"prompt": " 하나? ", "completion": "둘"}) == "하나?"

    def test_leaves_out_blank_ones(self):
        assert asked(lk.get_task("alpaca"), {"instruction": "a", "input": None}) == "a"

    def test_of_a_conversation_is_what_was_said_last(self):
        turns = [{"role": "user", "content": text} for text in ("a", "b")]
        record = {"talk": [*turns, {"role": "assistant", "content": "c"}]}

        assert asked(lk.get_task("chat").rename(talk="messages"), record) == "b"


class TestAShortenedText:
    @pytest.mark.parametrize("text", ["가" * 300, "a" * 300, "가 나a" * 100, "👩‍👩‍👧" * 90])
    def test_is_no_wider_than_asked_for(self, text):
        assert cell_len(shortened(text, 40)) <= 40
        assert " … " in shortened(text, 40)

    def test_that_fits_stays_on_one_line(self):
        assert shortened("네,\n  맞아요.\t!") == "네, 맞아요. !"

    def test_keeps_an_emoji_of_several_characters_whole(self):
        assert shortened("👩‍👩‍👧 !") == "👩‍👩‍👧 !"

    def test_has_nothing_that_a_terminal_obeys(self):
        assert shortened("\x1b[31mred\x07") == "�[31mred�"


def test_columns_are_in_line_under_wide_hangul():
    stream = StringIO()
    table = side_by_side(
        ("asked", "before", "after"), [["오늘 날씨?", "맑아요", "b"], ["x", "y", "z"]]
    )
    Console(file=stream, width=80).print(table)
    lines = [line for line in stream.getvalue().splitlines() if "맑아요" in line or " y " in line]

    starts = [
        cell_len(line[: line.index(mark)]) for line, mark in zip(lines, ("맑", "y"), strict=True)
    ]
    assert starts[0] == starts[1]
