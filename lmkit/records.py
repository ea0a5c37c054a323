"""Read: data files become records that remember where they came from.

A record is a mapping from column to value. Those read here are `Row`s: dictionaries with a `where`
such as `train.jsonl:17`, which every later error about the record quotes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from lmkit.errors import MissingExtra, RecordError, RecordErrors

csv.field_size_limit(1 << 30)  # Python's own limit of 128 KiB is below a long document
MOST_ERRORS = 10  # bad rows shown together before reading stops

_SURROGATE = re.compile("[\ud800-\udfff]")

Data = str | Path | Iterable[Mapping[str, Any]]


class Row(dict[str, Any]):
    """A record with its place.

    Attributes:
        where: `file:line`, or `rows:index` for data that was never a file.
    """

    __slots__ = ("where",)

    def __init__(self, columns: Mapping[str, Any], where: str) -> None:
        super().__init__(columns)
        self.where = where


def where_of(record: Mapping[str, Any], index: int) -> str:
    """Return a record's place, or its index where it has none."""
    return record.where if isinstance(record, Row) else f"record {index}"


def read(data: Data, *, whole: bool = False, most_errors: int = MOST_ERRORS) -> list[Row]:
    """Return all records of a data source.

    Args:
        data: a .jsonl, .json, .csv, .tsv, .parquet or .txt file, a `datasets` folder or hub name,
            `-` for JSON lines on standard input, or records in memory.
        whole: whether a .txt file is one record, as it stands; otherwise each line is one.
        most_errors: how many bad rows to gather before giving up.
    Raises:
        RecordError: the source is missing, empty, or of no known kind.
        RecordErrors: rows that cannot be read, each with its place.
    """
    rows = gather(_located(data, whole), most_errors=most_errors)
    if not rows:
        raise RecordError(name_of(data), "there are no records in it")
    return rows


def gather(results: Iterable[Row | RecordError], *, most_errors: int = MOST_ERRORS) -> list[Row]:
    """Return the rows, or raise all their errors together."""
    rows: list[Row] = []
    errors: list[RecordError] = []
    for result in results:
        if isinstance(result, RecordError):
            errors.append(result)
            if len(errors) >= most_errors:
                raise RecordErrors(errors, more=True)
        else:
            rows.append(result)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise RecordErrors(errors)
    return rows


def name_of(data: Data) -> str:
    """Return how to call a data source in a message."""
    if isinstance(data, (str, Path)):
        return "standard input" if str(data) == "-" else str(data)
    return f"{type(data).__name__} in memory"


def fingerprint(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the sha256 of the records' content and order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False, sort_keys=True, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _located(data: Data, whole: bool) -> Iterator[Row | RecordError]:
    if not isinstance(data, (str, Path)):
        return (_row(record, f"rows:{index}") for index, record in enumerate(data))
    if str(data) == "-":
        return _json_lines(_decoded(sys.stdin.buffer.read(), "standard input"), "standard input")
    path = Path(data)
    if path.is_dir():
        return _datasets_folder(path)
    if path.is_file():
        reader = _READERS.get(path.suffix.lower())
        if whole and reader is _text_file:
            return _whole_text(path)
        if reader is None:
            kinds = ", ".join(sorted(_READERS))
            raise RecordError(
                str(path), f"'{path.suffix}' is no known kind of data; known: {kinds}"
            )
        return reader(path)
    if path.suffix.lower() in _READERS or path.is_absolute() or str(data).startswith("."):
        raise RecordError(str(data), "there is no such file")
    return _hub(str(data))


def _row(record: Any, where: str) -> Row | RecordError:
    if not isinstance(record, Mapping):
        return RecordError(
            where, f"a record is a mapping from column to value, not {_kind(record)}"
        )
    if _has_half_character(record):
        return RecordError(
            where, "has half of a surrogate pair, such as \\ud83d without its partner"
        )
    return Row(record, where)


def _has_half_character(part: Any) -> bool:
    """Say whether a text in a record is cut inside a character, so that no tokenizer takes it."""
    if isinstance(part, str):
        return _SURROGATE.search(part) is not None
    if isinstance(part, Mapping):
        return any(map(_has_half_character, part.values()))
    return isinstance(part, (list, tuple)) and any(map(_has_half_character, part))


def _kind(found: Any) -> str:
    return "null" if found is None else f"a {type(found).__name__}"


def _open_text(path: Path) -> TextIO:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RecordError(str(path), f"cannot be read: {error.strerror}") from error
    return _decoded(raw, str(path))


def _decoded(raw: bytes, name: str) -> TextIO:
    """Decode a whole file, so that an error can name the line."""
    try:
        return io.StringIO(raw.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RecordError(
            f"{name}:{line}",
            f"byte 0x{raw[error.start]:02x} is not UTF-8; convert the file, for example with "
            f"'iconv -f CP949 -t UTF-8'",
        ) from error


def _jsonl_file(path: Path) -> Iterator[Row | RecordError]:
    return _json_lines(_open_text(path), str(path))


def _json_lines(lines: Iterable[str], name: str) -> Iterator[Row | RecordError]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.rstrip())
        except (ValueError, RecursionError) as error:
            yield RecordError(f"{name}:{number}", f"not valid JSON: {_json_problem(error)}")
        else:
            yield _row(record, f"{name}:{number}")


def _json_file(path: Path) -> Iterator[Row | RecordError]:
    text = _open_text(path).read()
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise RecordError(f"{path}{line}", f"not valid JSON: {_json_problem(error)}") from error
    if isinstance(records, dict) and isinstance(records.get("data"), list):
        records = records["data"]
    if not isinstance(records, list):
        raise RecordError(str(path), f"holds {_kind(records)}, expected a list of records")
    return (_row(record, f"{path}[{index}]") for index, record in enumerate(records))


def _json_problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return str(error)  # too deep, or a number with thousands of digits


def _csv_file(path: Path) -> Iterator[Row | RecordError]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    # Without `strict`, a quote that is never closed swallows the rest of the file in silence.
    reader = csv.DictReader(_open_text(path), delimiter=delimiter, strict=True)
    try:
        names = list(reader.fieldnames or ())
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise RecordError(f"{path}:1", f"has two columns named '{twice}'")
        for record in reader:
            where = f"{path}:{reader.line_num}"
            if None in record:
                yield RecordError(where, f"has more cells than the {len(record) - 1} columns")
            elif None in record.values():
                yield RecordError(where, "has fewer cells than there are columns")
            else:
                yield Row(record, where)
    except csv.Error as error:
        yield RecordError(f"{path}:{reader.line_num}", f"not valid CSV: {error}")


def _text_file(path: Path) -> Iterator[Row | RecordError]:
    for number, line in enumerate(_open_text(path), start=1):
        if line.strip():
            yield Row({"text": line.rstrip("\r\n")}, f"{path}:{number}")


def _whole_text(path: Path) -> Iterator[Row]:
    if text := _open_text(path).read():
        yield Row({"text": text}, str(path))


def _parquet_file(path: Path) -> Iterator[Row | RecordError]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra("reading Parquet", "train", "pyarrow") from error
    try:
        records = parquet.read_table(path).to_pylist()
    except Exception as error:  # pyarrow raises many kinds
        raise RecordError(str(path), f"not a readable Parquet file: {error}") from error
    return (Row(record, f"{path}[{index}]") for index, record in enumerate(records))


def _datasets_folder(path: Path) -> Iterator[Row | RecordError]:
    datasets = _datasets()
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets raises many kinds
        raise RecordError(str(path), f"is not a folder that datasets saved: {error}") from error
    return _split_rows(found, str(path))


def _hub(name: str) -> Iterator[Row | RecordError]:
    datasets = _datasets()
    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # network, hub and format errors share no base
        raise RecordError(
            name, f"is neither a file here nor a dataset that can be fetched: {error}"
        ) from error
    return _split_rows(found, name)


def _split_rows(found: Any, name: str) -> Iterator[Row | RecordError]:
    if isinstance(found, Mapping):
        if "train" not in found and len(found) > 1:
            raise RecordError(name, f"has the splits {', '.join(found)} and none named 'train'")
        found = found.get("train", next(iter(found.values())))
    return (Row(record, f"{name}[{index}]") for index, record in enumerate(found))


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("reading this data", "train", "datasets") from error
    return datasets


_READERS: dict[str, Callable[[Path], Iterator[Row | RecordError]]] = {
    ".jsonl": _jsonl_file,
    ".ndjson": _jsonl_file,
    ".json": _json_file,
    ".csv": _csv_file,
    ".tsv": _csv_file,
    ".txt": _text_file,
    ".parquet": _parquet_file,
}
