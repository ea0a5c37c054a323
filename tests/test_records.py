import io
import json
import sys
from typing import ClassVar

import pytest

from lmkit.errors import RecordError, RecordErrors
from lmkit.records import Row, count, fingerprint, iterate, name_of, read, where_of

QUESTION = {"question": "안녕?", "answer": "네"}


@pytest.fixture
def write(tmp_path):
    """Return a function that makes a data file, from text or from bytes."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def standard_input(monkeypatch):
    def give(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))

    return give


class TestEveryFormat:
    def test_json_lines_are_one_record_a_line(self, write):
        path = write("a.jsonl", '{"x": "하나"}\n\n{"x": "둘"}\n')

        rows = read(path)

        assert rows == [{"x": "하나"}, {"x": "둘"}]
        assert [row.where for row in rows] == [f"{path}:1", f"{path}:3"]

    def test_a_path_may_be_text(self, write):
        assert read(str(write("a.jsonl", '{"x": 1}'))) == [{"x": 1}]

    def test_a_byte_order_mark_is_not_part_of_the_first_record(self, write):
        assert read(write("a.jsonl", b'\xef\xbb\xbf{"x": 1}\n')) == [{"x": 1}]

    def test_a_line_separator_inside_a_text_does_not_end_the_line(self, write):
        """str.splitlines would cut here, and the second half would be bad JSON."""
        assert read(write("a.jsonl", '{"x": "a\u2028b\x85c"}\n')) == [{"x": "a\u2028b\x85c"}]

    def test_windows_line_ends_are_line_ends(self, write):
        assert read(write("a.jsonl", '{"x": 1}\r\n{"x": 2}\r\n')) == [{"x": 1}, {"x": 2}]

    @pytest.mark.parametrize("content", ['[{"x": 1}, {"x": 2}]', '{"data": [{"x": 1}, {"x": 2}]}'])
    def test_json_is_a_list_of_records_perhaps_under_data(self, write, content):
        path = write("a.json", content)

        rows = read(path)

        assert rows == [{"x": 1}, {"x": 2}]
        assert rows[1].where == f"{path}[1]"

    def test_csv_cells_are_text_under_the_header_names(self, write):
        path = write("a.csv", 'question,answer\n"안녕, 하세요?",3\n')

        rows = read(path)

        assert rows == [{"question": "안녕, 하세요?", "answer": "3"}]
        assert rows[0].where == f"{path}:2"

    def test_a_quoted_csv_cell_may_hold_line_ends(self, write):
        assert read(write("a.csv", 'q,a\n"one\ntwo",1\n')) == [{"q": "one\ntwo", "a": "1"}]

    @pytest.mark.parametrize("name", ["a.tsv", "A.TSV"])
    def test_tsv_cells_are_parted_by_tabs(self, write, name):
        assert read(write(name, "q\ta\none, two\t1\n")) == [{"q": "one, two", "a": "1"}]

    def test_text_is_one_record_a_line_that_is_not_blank(self, write):
        path = write("a.txt", "하나\r\n\n  둘\n")

        rows = read(path)

        assert rows == [{"text": "하나"}, {"text": "  둘"}]
        assert rows[1].where == f"{path}:3"

    def test_text_is_one_record_as_it_stands_where_that_is_asked_for(self, write):
        path = write("a.txt", b"\xef\xbb\xbf\xed\x95\x98\xeb\x82\x98\r\n\n  x\n\n")

        rows = read(path, whole=True)

        assert rows == [{"text": "하나\r\n\n  x\n\n"}]
        assert rows[0].where == str(path)

    def test_that_changes_no_other_format(self, write):
        path = write("a.jsonl", '{"x": "하나"}\n\n{"x": "둘"}\n')

        assert read(path, whole=True) == read(path)

    def test_parquet_keeps_lists_and_numbers(self, tmp_path):
        import pyarrow
        import pyarrow.parquet

        records = [{"x": 1, "messages": [{"role": "user", "content": "안녕"}]}]
        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)

        rows = read(path)

        assert rows == records
        assert rows[0].where == f"{path}[0]"

    def test_a_datasets_folder_is_read_as_datasets_saved_it(self, tmp_path):
        import datasets

        datasets.Dataset.from_list([QUESTION]).save_to_disk(tmp_path / "saved")

        rows = read(tmp_path / "saved")

        assert rows == [QUESTION]
        assert rows[0].where == f"{tmp_path / 'saved'}[0]"

    def test_of_several_splits_train_is_read(self, tmp_path):
        import datasets

        splits = {"test": [{"x": 2}], "train": [{"x": 1}]}
        datasets.DatasetDict(
            {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}
        ).save_to_disk(tmp_path / "saved")

        assert read(tmp_path / "saved") == [{"x": 1}]

    def test_a_hub_name_is_fetched_by_datasets(self, monkeypatch):
        import datasets

        monkeypatch.setattr(
            datasets, "load_dataset", lambda name: {"train": [{"name": name}]}, raising=True
        )

        assert read("someone/questions") == [{"name": "someone/questions"}]

    def test_standard_input_is_json_lines_in_utf_8_whatever_the_locale(self, standard_input):
        standard_input(json.dumps(QUESTION, ensure_ascii=False).encode())

        rows = read("-")

        assert rows == [QUESTION]
        assert rows[0].where == "standard input:1"

    def test_a_list_in_memory_is_read_in_order(self):
        rows = read([{"x": 1}, {"x": 2}])

        assert rows == [{"x": 1}, {"x": 2}]
        assert rows[1].where == "rows:1"

    def test_a_generator_of_records_is_read(self):
        assert read({"x": n} for n in range(2)) == [{"x": 0}, {"x": 1}]

    def test_a_dataset_in_memory_is_read(self):
        import datasets

        assert read(datasets.Dataset.from_list([QUESTION])) == [QUESTION]

    def test_reading_does_not_change_the_callers_records(self):
        mine = {"x": 1}

        read([mine])[0]["x"] = 2

        assert mine == {"x": 1}


class TestWhatCannotBeRead:
    @pytest.mark.parametrize("name", ["gone.jsonl", "gone.parquet"])
    def test_a_missing_file_is_called_missing_and_not_looked_for_on_the_hub(self, name):
        with pytest.raises(RecordError, match=f"^{name}: there is no such file$"):
            read(name)

    def test_a_missing_path_of_no_known_kind_is_called_missing(self, tmp_path):
        with pytest.raises(RecordError, match="there is no such file"):
            read(tmp_path / "gone")

    def test_a_name_that_is_neither_here_nor_on_the_hub_says_both(self, monkeypatch):
        import datasets

        def refuse(name):
            raise ConnectionError("offline")

        monkeypatch.setattr(datasets, "load_dataset", refuse)

        with pytest.raises(RecordError, match=r"neither a file here nor a dataset .*: offline"):
            read("questions")

    @pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.txt"])
    @pytest.mark.parametrize("content", ["", "\n\n"])
    def test_an_empty_file_is_refused(self, write, name, content):
        with pytest.raises(RecordError, match="there are no records in it"):
            read(write(name, content))

    def test_a_csv_with_a_header_only_is_refused(self, write):
        with pytest.raises(RecordError, match="there are no records in it"):
            read(write("a.csv", "question,answer\n"))

    def test_no_records_in_memory_are_refused(self):
        with pytest.raises(RecordError, match=r"^list in memory: there are no records"):
            read([])

    def test_an_unknown_kind_of_file_lists_the_known_kinds(self, write):
        with pytest.raises(RecordError, match=r"'\.xlsx' is no known kind .* \.csv, .*\.jsonl"):
            read(write("a.xlsx", "x"))

    def test_a_file_that_the_system_withholds_is_a_users_error(self, write, monkeypatch):
        path = write("a.jsonl", "{}")

        def refuse(*args, **options):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)

        with pytest.raises(RecordError, match="cannot be read: Permission denied"):
            read(path)

    def test_invalid_json_names_line_and_column(self, write):
        path = write("a.jsonl", '{"x": 1}\n{"x": }\n')

        with pytest.raises(RecordError) as caught:
            read(path)

        assert caught.value.where == f"{path}:2"
        assert caught.value.problem == "not valid JSON: Expecting value at column 7"

    @pytest.mark.parametrize("line", ["[" * 100_000, '{"x": ' + "1" * 5000 + "}"])
    def test_json_beyond_what_python_reads_names_the_line(self, write, line):
        """Too deep is a RecursionError and too long a number a plain ValueError."""
        with pytest.raises(RecordError, match=r"a\.jsonl:1: not valid JSON"):
            read(write("a.jsonl", line))

    @pytest.mark.parametrize(
        ("line", "kind"), [("[1]", "a list"), ('"x"', "a str"), ("null", "null"), ("3", "a int")]
    )
    def test_a_row_that_is_no_object_says_what_it_is(self, write, line, kind):
        with pytest.raises(RecordError, match=rf"a\.jsonl:1: .* mapping .*, not {kind}$"):
            read(write("a.jsonl", line))

    def test_invalid_utf_8_names_the_line_and_how_to_convert(self, write):
        path = write("a.jsonl", '{"x": "하나"}\n'.encode() + '{"x": "둘"}\n'.encode("cp949"))

        with pytest.raises(RecordError, match="iconv -f CP949") as caught:
            read(path)

        assert caught.value.where == f"{path}:2"

    def test_invalid_utf_8_on_standard_input_names_the_line(self, standard_input):
        standard_input(b'{"x": 1}\n{"x": "\xb5"}\n')

        with pytest.raises(RecordError, match=r"^standard input:2: byte 0xb5 is not UTF-8"):
            read("-")

    @pytest.mark.parametrize("name", ["a.json", "a.csv", "a.txt"])
    def test_invalid_utf_8_is_named_in_every_text_format(self, write, name):
        with pytest.raises(RecordError, match="is not UTF-8"):
            read(write(name, b"ok\n\xff\n"))

    def test_half_a_character_is_refused_where_it_stands(self, write):
        """A text cut inside an emoji is legal JSON, and no tokenizer takes it."""
        path = write("a.jsonl", '{"x": "ok"}\n{"x": [{"y": "\\ud83d"}]}\n')

        with pytest.raises(RecordError, match="half of a surrogate pair") as caught:
            read(path)

        assert caught.value.where == f"{path}:2"

    def test_a_whole_surrogate_pair_is_a_character(self, write):
        assert read(write("a.jsonl", '{"x": "\\ud83d\\ude00"}')) == [{"x": "😀"}]

    def test_a_json_file_that_is_no_list_says_what_it_is(self, write):
        with pytest.raises(RecordError, match="holds a dict, expected a list of records"):
            read(write("a.json", '{"x": 1}'))

    def test_a_json_file_that_is_not_json_names_the_line(self, write):
        with pytest.raises(RecordError, match=r"a\.json:2: not valid JSON"):
            read(write("a.json", '[{"x": 1},\n oops]'))

    def test_ragged_csv_names_the_line_and_which_way(self, write):
        path = write("a.csv", "q,a\n1,2\n1,2,3\n1\n")

        with pytest.raises(RecordErrors) as caught:
            read(path)

        assert [str(error) for error in caught.value.errors] == [
            f"{path}:3: has more cells than the 2 columns",
            f"{path}:4: has fewer cells than there are columns: 'a' has none",
        ]

    def test_a_quote_that_is_never_closed_does_not_swallow_the_rest(self, write):
        with pytest.raises(RecordError, match="not valid CSV: unexpected end of data"):
            read(write("a.csv", 'q,a\n"1,2\n3,4\n5,6\n'))

    def test_two_columns_of_one_name_are_refused(self, write):
        with pytest.raises(RecordError, match=r"a\.csv:1: has two columns named 'q'"):
            read(write("a.csv", "q,q\n1,2\n"))

    def test_a_broken_parquet_file_is_a_users_error(self, write):
        with pytest.raises(RecordError, match="not a readable Parquet file"):
            read(write("a.parquet", "PAR?"))

    def test_a_folder_that_datasets_did_not_save_is_refused(self, tmp_path):
        with pytest.raises(RecordError, match="is not a folder that datasets saved"):
            read(tmp_path)

    def test_splits_without_train_are_listed(self, tmp_path):
        import datasets

        rows = datasets.Dataset.from_list([{"x": 1}])
        datasets.DatasetDict({"a": rows, "b": rows}).save_to_disk(tmp_path / "saved")

        with pytest.raises(RecordError, match="has the splits a, b and none named 'train'"):
            read(tmp_path / "saved")

    def test_a_record_in_memory_that_is_no_mapping_names_its_index(self):
        with pytest.raises(RecordError, match=r"^rows:1: a record is a mapping"):
            read([{"x": 1}, "two"])


class TestGathering:
    def test_several_bad_rows_are_shown_together_in_order(self, write):
        path = write("a.jsonl", '{"x": 1}\n[]\n{\n{"x": 2}\n7\n')

        with pytest.raises(RecordErrors, match=r"^3 bad rows\n") as caught:
            read(path)

        assert [error.where for error in caught.value.errors] == [f"{path}:{n}" for n in (2, 3, 5)]

    def test_reading_stops_at_ten(self, write):
        with pytest.raises(RecordErrors, match=r"^10 or more bad rows") as caught:
            read(write("a.jsonl", "[]\n" * 25))

        assert len(caught.value.errors) == 10

    def test_how_many_are_gathered_can_be_chosen(self, write):
        with pytest.raises(RecordErrors, match=r"^2 or more bad rows"):
            read(write("a.jsonl", "[]\n" * 25), most_errors=2)


class TestBadRowsThatAreSkipped:
    def test_are_told_one_by_one_and_left_out(self, write):
        path = write("a.jsonl", b'{"x": 1}\n[]\n{"x": "\xb5"}\n{\n{"x": 2}\n')
        bad = []

        rows = read(path, on_bad_row=bad.append)

        assert rows == [{"x": 1}, {"x": 2}]
        assert [row.where for row in rows] == [f"{path}:1", f"{path}:5"]
        assert [error.where for error in bad] == [f"{path}:{n}" for n in (2, 3, 4)]
        assert bad[1].problem.startswith("byte 0xb5 is not UTF-8 (column 8)")

    def test_of_csv_are_lines_that_do_not_fit_the_header(self, write):
        bad = []

        rows = read(write("a.csv", 'q,a\n1\n1,"2"3\n1,2\n'), on_bad_row=bad.append)

        assert rows == [{"q": "1", "a": "2"}]
        assert [error.problem for error in bad] == [
            "has fewer cells than there are columns: 'a' has none",
            "not valid CSV: ',' expected after '\"'",
        ]

    def test_are_no_part_of_a_csv_behind_a_quote_that_is_never_closed(self, write):
        """To skip would be to lose half of the file as if it were a single row."""
        with pytest.raises(RecordError, match=r"a\.csv:3: .* a quote is never closed"):
            read(write("a.csv", 'q,a\n1,2\n"3,4\n5,6\n'), on_bad_row=[].append)

    def test_may_not_be_all(self, write):
        with pytest.raises(RecordError, match=r"every row of it is bad; the first: .*a\.jsonl:1:"):
            read(write("a.jsonl", "[]\n7\n"), on_bad_row=[].append)


class TestTheRowsOfASource:
    CONTENTS: ClassVar = {
        "a.jsonl": '{"x": "1"}\n\n[]\n{"x": "3"}\n',
        "a.json": '[{"x": "1"}, 2, {"x": "3"}]',
        "a.csv": 'x,y\n1,1\n\n2\n"3\n",4\n',
        "a.txt": "하나\n\n둘\n셋\n",
    }

    @pytest.fixture(params=[*CONTENTS, "a.parquet", "saved"])
    def source(self, request, write, tmp_path):
        import datasets

        if request.param in self.CONTENTS:
            return write(request.param, self.CONTENTS[request.param])
        rows = datasets.Dataset.from_list([{"x": n} for n in range(3)])
        path = tmp_path / request.param
        if request.param == "saved":
            rows.save_to_disk(path)
        else:
            rows.to_parquet(path, batch_size=2)
        return path

    def test_are_counted_without_being_read(self, source):
        assert count(source) == len(list(iterate(source))) == 3

    @pytest.mark.parametrize("start", [0, 1, 2, 3, 4])
    def test_may_begin_anywhere_and_keep_their_places(self, source, start):
        wanted = [(row, getattr(row, "where", None)) for row in iterate(source)][start:]

        found = [(row, getattr(row, "where", None)) for row in iterate(source, start=start)]

        assert [where for _, where in found] == [where for _, where in wanted]
        assert [str(row) for row, _ in found] == [str(row) for row, _ in wanted]

    def test_are_read_as_they_are_asked_for(self, write):
        path = write("a.jsonl", '{"x": 1}\n' * 3)
        rows = iterate(path)
        first = next(rows)

        assert first == {"x": 1}
        rows.close()


class TestPlaces:
    def test_a_row_is_called_by_its_place_and_a_plain_record_by_its_index(self):
        assert where_of(Row({}, "a.jsonl:3"), 0) == "a.jsonl:3"
        assert where_of({}, 7) == "record 7"

    def test_a_source_has_a_name_for_messages(self, tmp_path):
        assert name_of("-") == "standard input"
        assert name_of(tmp_path / "a.jsonl") == str(tmp_path / "a.jsonl")
        assert name_of([]) == "list in memory"


class TestFingerprint:
    def test_it_does_not_depend_on_where_rows_are_or_how_columns_are_ordered(self, write):
        path = write("a.jsonl", '{"answer": "네", "question": "안녕?"}')

        assert fingerprint(read(path)) == fingerprint([QUESTION])

    def test_content_and_order_decide_it(self):
        rows = [{"x": 1}, {"x": 2}]

        assert fingerprint(rows) != fingerprint(rows[::-1])
        assert fingerprint(rows) != fingerprint([{"x": 1}, {"x": 3}])
