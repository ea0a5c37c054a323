"""What a terminal shows of a preview: it tells tokens apart, and the data cannot steer it."""

import pytest

from lmkit.previewing import Finding, Shown, Token
from lmkit.previewing.printing import findings, row, visible

STEERING = "a\x1b[2Jb\u202ec\u200dd\x07"


def shown(*texts):
    tokens = tuple(Token(id=i, text=text, kind="learned") for i, text in enumerate(texts))
    return Shown(index=0, where="train.jsonl:1", why="first", tokens=tokens, n_tokens=len(tokens))


@pytest.mark.parametrize("coloured", [True, False])
def test_what_a_terminal_would_obey_is_named(coloured):
    text = row(shown(STEERING), coloured=coloured).plain

    assert "a‹ESC›[2Jb‹RLO›c‹ZWJ›d‹BEL›" in text


def test_an_excerpt_cannot_steer_a_terminal():
    finding = Finding(
        name="empty-answer", level="note", text="t", remedy="r", count=1, of=2, excerpt=STEERING
    )

    assert "such as a‹ESC›[2Jb‹RLO›c‹ZWJ›d‹BEL›\n" in findings([finding]).plain


def test_korean_and_line_ends_are_seen_as_they_are():
    assert visible("가\u1100\u1161\n\t나") == "가\u1100\u1161↵\n⇥\t나"


def test_a_row_that_ends_with_a_line_end_leaves_no_blank_line():
    assert row(shown("hi", "\n"), coloured=True).plain.endswith("hi↵")
