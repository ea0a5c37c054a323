"""Parts come in any order, and more than once; the output has every line once, in order."""

import itertools
import json
import os
from pathlib import Path

import pytest

from lmkit.cluster.joining import Joiner, Waiting
from lmkit.cluster.spans import Span, cut, gaps
from lmkit.errors import RecordError
from lmkit.records import read

COUNT = 9
LINES = [json.dumps({"prompt": str(i), "answer": i}) for i in range(COUNT)]
PARTS = [(0, 2), (2, 3), (5, 1), (6, 3)]


def joined(output, done=0):
    def write(lines):
        with open(output, "a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    return Joiner(write, Waiting.beside(output), done=done)


def add(joiner, *parts):
    for first, count in parts:
        joiner.add(first, LINES[first : first + count])


@pytest.fixture
def output(tmp_path):
    return tmp_path / "answers.jsonl"


@pytest.fixture
def rows():
    return read([{"prompt": str(i)} for i in range(COUNT)])


@pytest.mark.parametrize("order", [*itertools.permutations(PARTS)])
def test_whatever_the_order_the_lines_are_in_order_and_no_folder_is_left(output, order):
    joiner = joined(output)

    add(joiner, *order)

    assert output.read_text("utf-8").splitlines() == LINES
    assert joiner.done == COUNT
    assert list(output.parent.iterdir()) == [output]


def test_a_part_that_comes_twice_is_there_once(output):
    joiner = joined(output)

    add(joiner, (2, 3), (2, 3), (0, 2), (0, 2), (2, 3), (5, 1), (6, 3), (6, 3))

    assert output.read_text("utf-8").splitlines() == LINES


def test_what_waited_when_a_run_stopped_is_handed_on_by_the_next(output):
    add(joined(output), (6, 3), (2, 3))

    assert not output.exists()
    assert Waiting.beside(output).spans() == [Span(2, 3), Span(6, 3)]
    joiner = joined(output)
    assert (joiner.done, joiner.waiting) == (0, 6)
    add(joiner, (0, 2), (5, 1))
    assert output.read_text("utf-8").splitlines() == LINES


def test_an_output_that_ends_within_a_part_that_waits_goes_on_behind_it(output):
    """As after a kill while a part was written to the output, line by line."""
    add(joined(output), (2, 3))
    output.write_text("".join(f"{line}\n" for line in LINES[:4]), "utf-8")

    joiner = joined(output, done=4)

    assert joiner.done == 5
    assert output.read_text("utf-8").splitlines() == LINES[:5]
    assert Waiting.beside(output).spans() == []


class TestWhatWaits:
    def test_is_known_by_the_records_that_it_answers(self, output, rows):
        add(joined(output), (2, 3), (6, 3))

        Waiting.beside(output).check(rows)

    @pytest.mark.parametrize("changed", [2, 4, 6, 8])
    def test_for_other_records_is_refused_and_left_as_it_is(self, output, rows, changed):
        add(joined(output), (2, 3), (6, 3))
        rows[changed]["prompt"] = "another"

        with pytest.raises(RecordError, match="other records than this input's"):
            Waiting.beside(output).check(rows)
        assert Waiting.beside(output).spans() == [Span(2, 3), Span(6, 3)]

    @pytest.mark.parametrize("left", [0, 5, 8])
    def test_for_more_records_than_there_are_is_refused(self, output, rows, left):
        add(joined(output), (6, 3))

        with pytest.raises(RecordError, match="other records than this input's"):
            Waiting.beside(output).check(rows[:left])

    def test_that_was_cut_off_is_refused(self, output, rows):
        waiting = Waiting.beside(output)
        waiting.keep(0, LINES[:2])
        (file,) = waiting.folder.iterdir()
        file.write_text(LINES[0], "utf-8")

        with pytest.raises(RecordError, match="has not the 2 lines"):
            waiting.check(rows)

    @pytest.mark.parametrize("waits", [[], [(6, 3)]])
    def test_is_rid_of_what_a_kill_left_half_written(self, output, waits, monkeypatch):
        add(joined(output), *waits)
        waiting = Waiting.beside(output)
        with monkeypatch.context() as patch:  # who is killed neither renames nor tidies up
            patch.setattr(os, "replace", lambda *places: None)
            patch.setattr(Path, "unlink", lambda *place, missing_ok: None)
            waiting.keep(2, LINES[2:5])
        assert len(list(waiting.folder.iterdir())) == len(waits) + 1

        waiting.remove_half_written()

        assert waiting.spans() == [Span(*span) for span in waits]
        add(joined(output), *PARTS)
        assert list(output.parent.iterdir()) == [output]

    def test_leaves_another_file_in_its_folder_alone(self, output):
        Waiting.beside(output).folder.mkdir()
        notes = Waiting.beside(output).folder / "notes.txt"
        notes.touch()

        add(joined(output), *reversed(PARTS))

        assert notes.exists()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_what_is_to_do_is_all_that_is_neither_done_nor_waits(size):
    waits = [Span(4, 3), Span(9, 1), Span(18, 2)]

    todo = list(cut(gaps(waits, first=1, end=20), size))

    rows = [row for span in todo for row in range(span.first, span.end)]
    assert rows == [1, 2, 3, 7, 8, *range(10, 18)]
    assert max(span.count for span in todo) <= size
