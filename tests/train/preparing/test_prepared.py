"""Prepared rows: the same as encoded ones, kept under all that they depend on, whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import time
from typing import ClassVar

import attrs
import numpy as np
import pytest

import lmkit as lk
from lmkit.encoding import lengths_of
from lmkit.errors import RecordError, RecordErrors
from lmkit.records import Row, fingerprint
from lmkit.sources import Source, SourceRows
from lmkit.tokenizing import Tokenizer
from lmkit.train.preparing import cachekey, caching, preparer
from lmkit.train.preparing.caching import Preparation, prepare, root_of
from lmkit.train.preparing.prepared import ArrowRows, HeldRows, of_positions

QA = lk.get_task("qa")
MOMENT = "2026-01-02T03:04:05"
DATED = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}"


def records(n=10):
    return [
        {"prompt": f"{i}은 무엇인가요?", "completion": "수입니다" * (i % 4 + 1)} for i in range(n)
    ]


@pytest.fixture
def ctrl_c():
    """Let Ctrl-C interrupt, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def small_stretches(monkeypatch):
    monkeypatch.setattr(preparer, "AT_ONCE", 3)


@pytest.fixture
def prepared(tokenizer, tmp_path):
    """Return a function that prepares data with a cache of the test's own."""

    def prepared(data, task=QA, *, tokenizer=tokenizer, moment=MOMENT, **how):
        how = Preparation(**{"cache": tmp_path / "cache", **how})
        return prepare(task, Source.open(data), tokenizer, moment, how)

    return prepared


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a.input_ids, b.input_ids)
        assert np.array_equal(a.labels, b.labels)
        assert a.input_ids.dtype == b.input_ids.dtype == a.labels.dtype == np.int64
        assert (a.n_cut, a.n_cut_learned, a.family) == (b.n_cut, b.n_cut_learned, b.family)
    return True


TASKS = {
    "causal": QA.evolve(collator=lk.CausalCollator(max_length=12)),
    "masked": lk.get_task("mlm").rename(prompt="text"),
    "seq2seq": lk.get_task("summarize").rename(prompt="article", completion="summary"),
    "chat": lk.Task(
        name="talk",
        formatter=lk.Chat.of(user="{prompt}", assistant="{completion}"),
        collator=lk.CausalCollator(max_length=64),
        decoder=lk.TextDecoder(),
    ),
}


@pytest.fixture
def with_mask(tokenizer):
    return tokenizer.with_special("mask_token", "<mask>")


class TestRows:
    @pytest.mark.parametrize("family", TASKS)
    def test_are_what_encoding_gives(self, prepared, jsonl, with_mask, small_stretches, family):
        task = TASKS[family]

        found = prepared(jsonl(records()), task, tokenizer=with_mask).rows

        wanted = lk.encode(task, records(), with_mask)
        assert isinstance(found, ArrowRows)
        assert same(found, wanted)
        assert found.lengths.tolist() == lengths_of(wanted).tolist()
        assert found.counts("n_learned").tolist() == [row.n_learned for row in wanted]
        assert same([found[-1], *found[2:5]], [wanted[-1], *wanted[2:5]])

    def test_are_the_same_of_several_processes(self, prepared, jsonl, small_stretches):
        path = jsonl(records(14))

        one, three = (prepared(path, cache=False, processes=n) for n in (1, 3))

        assert same(three.rows, one.rows)
        assert three.account == one.account

    @pytest.mark.parametrize("processes", [1, 2])
    def test_end_with_ctrl_c_and_leave_nothing(
        self, prepared, jsonl, small_stretches, processes, tmp_path, ctrl_c
    ):
        typed_at = os.getpid()

        def type_ctrl_c(record):
            if record["prompt"].startswith("4"):
                os.kill(typed_at, signal.SIGINT)
                time.sleep(1)
            return record

        with pytest.raises(KeyboardInterrupt):
            prepared(jsonl(records(14)), QA.map(type_ctrl_c), processes=processes)

        assert list((tmp_path / "cache").iterdir()) == []

    def test_are_the_same_of_a_file_and_of_memory(self, prepared, jsonl, small_stretches):
        held, stored = prepared(records()), prepared(jsonl(records()))

        assert isinstance(held.rows, HeldRows)
        assert same(held.rows, stored.rows)
        assert held.account == stored.account
        assert same(held.rows.learnable(), stored.rows.learnable())

    def test_can_be_chosen_by_their_records_places_of_which_each_may_have_several_rows(self):
        rows = [lk.Encoded(np.array([n]), np.array([n])) for n in range(5)]

        found = of_positions(HeldRows(rows, [0, 2, 2, 5, 7]), np.array([7, 2, 3, 0]))

        assert [int(row.input_ids[0]) for row in found] == [4, 1, 2, 0]

    def test_of_a_missing_index_are_an_index_error(self, prepared, jsonl):
        found = prepared(jsonl(records(2))).rows

        with pytest.raises(IndexError):
            found[2]

    def test_go_with_their_folder_where_there_is_no_cache(
        self, prepared, jsonl, monkeypatch, tmp_path
    ):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

        found = prepared(jsonl(records()), cache=False)
        (folder,) = tmp_path.glob("lmkit-prepared-*")
        del found

        assert not folder.exists()


class TestSourceRows:
    @pytest.mark.parametrize("places", [[0, 2, 3], [3, 0, 2], []])
    def test_are_read_when_they_are_asked_for(self, jsonl, places):
        task = QA.map(lambda record: {**record, "prompt": record["prompt"] + "!"})
        rows = SourceRows(
            Source.open(jsonl(records(5))), np.array(places, dtype=np.int64), task.transforms
        )

        wanted = [records()[n]["prompt"] + "!" for n in places]
        assert [row["prompt"] for row in rows] == wanted
        assert [rows[n]["prompt"] for n in range(len(rows))] == wanted
        assert rows.mapped(lambda row: row["prompt"]) == wanted
        assert list(rows[1:]) == list(rows)[1:]


class TestTheCache:
    def test_gives_the_same_rows_again(self, prepared, jsonl):
        path = jsonl(records())

        first, second = prepared(path), prepared(path)

        assert "miss: nothing was prepared before from it" in first.explained
        assert "train.jsonl: hit, prepared 20" in second.explained
        assert same(first.rows, second.rows)
        assert first.account == second.account

    def test_knows_a_file_by_its_content(self, prepared, jsonl):
        prepared(jsonl(records()))

        assert "hit" in prepared(jsonl(records(), "copy.jsonl")).explained

    def test_is_not_asked_for_what_is_in_memory_or_where_it_is_not_wanted(
        self, prepared, jsonl, tmp_path
    ):
        told = [prepared(records()).explained, prepared(jsonl(records()), cache=False).explained]

        assert told[0] == "list in memory: not cached, being in memory"
        assert told[1].endswith("train.jsonl: not cached, as was asked")
        assert not (tmp_path / "cache").exists()

    CHANGES: ClassVar = {
        "data": lambda c: attrs.evolve(
            c, records=[*records(9), {"prompt": "a", "completion": "b"}]
        ),
        "formatter": lambda c: attrs.evolve(
            c, task=c.task.evolve(formatter=lk.context("{prompt} ") + lk.target("{completion}"))
        ),
        "collator": lambda c: attrs.evolve(
            c, task=c.task.evolve(collator=lk.CausalCollator(max_length=7))
        ),
        "tokenizer": lambda c: attrs.evolve(
            c, tokenizer=c.tokenizer.with_special("pad_token", "~")
        ),
        "decoder": lambda c: attrs.evolve(
            c, task=c.task.evolve(decoder=lk.TextDecoder(stop=("x",)))
        ),
        "transforms": lambda c: attrs.evolve(
            c, task=c.task.where(lambda r: "3" not in r["prompt"])
        ),
    }

    @pytest.mark.parametrize("part", CHANGES)
    def test_misses_when_a_part_changes_and_says_which(self, prepared, jsonl, tokenizer, part):
        case = Case(records(), QA, tokenizer)
        changed = self.CHANGES[part](case)
        prepared(jsonl(case.records), case.task, tokenizer=case.tokenizer)

        found = prepared(jsonl(changed.records), changed.task, tokenizer=changed.tokenizer)

        assert f": the {part} (" in found.explained
        assert same(found.rows, encoded(changed))
        parts = ("lmkit", "libraries", "plugins", "formatter", "chat template", "date", "tokenizer")
        parts += ("collator", "decoder", "transforms", "data")
        others = ", ".join(one for one in parts if one != part)
        assert found.explained.endswith(f"; the same: {others}")

    @pytest.mark.parametrize(
        ("template", "moment", "part"),
        [
            ("{% for m in messages %}<{{ m.content }}>{% endfor %}", MOMENT, "chat template"),
            (DATED, "2026-01-03T03:04:05", "date"),
            (DATED, "2026-01-02T23:04:05", None),
        ],
    )
    def test_knows_the_template_and_the_date_that_it_prints(
        self, prepared, jsonl, tokenizer, template, moment, part
    ):
        path, task = jsonl(records()), TASKS["chat"]
        unknown = lk.train_tokenizer(kind="bpe", vocab_size=400, data=records())
        prepared(path, task, tokenizer=unknown.with_template(DATED))

        found = prepared(path, task, tokenizer=unknown.with_template(template), moment=moment)

        assert (f"the {part} (" in found.explained) if part else ("hit" in found.explained)
        if part == "date":
            assert "the date (02 Jan 2026 -> 03 Jan 2026)" in found.explained

    @pytest.mark.parametrize("name", ["own_code", "_libraries"])
    def test_misses_for_other_versions(self, prepared, jsonl, monkeypatch, name):
        path = jsonl(records())
        prepared(path)
        monkeypatch.setattr(cachekey, name, lambda: "other")

        assert f"the {'lmkit' if name == 'own_code' else 'libraries'} (" in prepared(path).explained

    def test_does_not_keep_what_depends_on_something_unknowable(self, prepared, jsonl, tmp_path):
        model = object()

        def clean(record):
            return {**record, "prompt": str(model is None)}

        found = prepared(jsonl(records()), QA.map(clean))

        assert "not cached: what the transform map(" in found.explained
        assert found.explained.endswith("clean refers to 'model', a object")
        assert not (tmp_path / "cache").exists()

    def test_keeps_nothing_of_a_file_that_changes_after_its_content_was_looked_at(
        self, prepared, jsonl, monkeypatch, tmp_path
    ):
        path = jsonl(records())

        def edited_meanwhile(*given):
            parts = cachekey.key_parts(*given)
            path.write_text(path.read_text("utf-8") * 2, "utf-8")
            return parts

        monkeypatch.setattr(caching, "key_parts", edited_meanwhile)

        with pytest.raises(RecordError, match="has changed while it was read"):
            prepared(path)
        assert not list((tmp_path / "cache").glob("*/*"))

    def test_names_the_entry_that_is_most_alike(self, prepared, jsonl):
        path = jsonl(records())
        prepared(path, QA.evolve(collator=lk.CausalCollator(max_length=7)))
        prepared(
            path,
            QA.evolve(
                collator=lk.CausalCollator(max_length=7), decoder=lk.TextDecoder(strip=False)
            ),
        )

        assert prepared(path).explained.count("->") == 1

    @pytest.mark.parametrize("damage", ["cut", "gone", "other schema", "no json"])
    def test_prepares_a_damaged_entry_anew(self, prepared, jsonl, tokenizer, tmp_path, damage):
        path = jsonl(records())
        prepared(path)
        (entry,) = (tmp_path / "cache").iterdir()
        file, about = entry / "rows.arrow", entry / "prepared.json"
        if damage == "cut":
            file.write_bytes(file.read_bytes()[:-8])
        elif damage == "gone":
            file.unlink()
        elif damage == "no json":
            about.write_text("{")
        else:
            about.write_text(json.dumps({**json.loads(about.read_text()), "schema": 0}))

        found = prepared(path)

        assert "miss" in found.explained
        assert same(found.rows, lk.encode(QA, records(), tokenizer))
        assert "hit" in prepared(path).explained

    def test_lies_where_the_environment_says(self, monkeypatch, tmp_path):
        monkeypatch.setenv("LMKIT_CACHE", str(tmp_path / "a"))
        assert root_of(True) == tmp_path / "a"
        monkeypatch.delenv("LMKIT_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert root_of(True) == tmp_path / "lmkit" / "prepared"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert root_of(True) == tmp_path / "home" / ".cache" / "lmkit" / "prepared"
        assert root_of("here").name == "here"

    def test_that_cannot_be_written_says_what_to_do(self, prepared, jsonl, tmp_path):
        (tmp_path / "file").write_text("")

        with pytest.raises(
            lk.LmkitError, match=r"name another folder with LMKIT_CACHE, or .*--no-cache"
        ):
            prepared(jsonl(records()), cache=tmp_path / "file")


@attrs.frozen
class Case:
    records: list
    task: lk.Task
    tokenizer: Tokenizer


def encoded(case):
    return lk.encode(case.task, case.records, case.tokenizer)


WRITER = """
import sys, time
from pathlib import Path
import lmkit as lk
from lmkit.sources import Source
from lmkit.tokenizing import Tokenizer
from lmkit.train.preparing import preparer
from lmkit.train.preparing.caching import Preparation, prepare

preparer.AT_ONCE = 3
slow = preparer.Preparer.stretch
def stretch(self, start):
    time.sleep(float(sys.argv[4]))
    return slow(self, start)
preparer.Preparer.stretch = stretch
print("ready", flush=True)
found = prepare(
    lk.get_task("qa"), Source.open(sys.argv[1]), Tokenizer.load(sys.argv[2]),
    "2026-01-02T03:04:05", Preparation(cache=sys.argv[3]),
)
print(len(found.rows), found.account.sha256, found.explained.split(":")[1].strip(), flush=True)
"""


@pytest.mark.slow
class TestSeveralProcesses:
    @pytest.fixture
    def writer(self, jsonl, tokenizer, tmp_path):
        tokenizer.save(tmp_path / "tokenizer")
        path = jsonl(records(12))

        def start(sleep):
            given = [str(path), str(tmp_path / "tokenizer"), str(tmp_path / "cache"), str(sleep)]
            return subprocess.Popen(
                [sys.executable, "-c", WRITER, *given], stdout=subprocess.PIPE, text=True
            )

        return start

    def test_may_prepare_the_same_at_once(self, writer, tmp_path):
        both = [writer(0.1) for _ in range(2)]

        said = [process.communicate(timeout=120)[0].splitlines()[-1].split() for process in both]

        assert [process.returncode for process in both] == [0, 0]
        assert said[0][:2] == said[1][:2]
        assert said[0][0] == "12"
        assert len(list((tmp_path / "cache").iterdir())) == 1

    def test_leave_nothing_half_when_they_are_killed(self, writer, tmp_path):
        process = writer(0.5)
        for _ in range(600):
            if list(tmp_path.glob("cache/.part-*/part-*.json")):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert [path.name[:6] for path in (tmp_path / "cache").iterdir()] == [".part-"]

        said = writer(0).communicate(timeout=120)[0].split()

        assert said[1] == "12"
        assert said[-1] == "miss"

    def test_what_a_killed_one_left_goes_a_day_later(self, prepared, jsonl, tmp_path):
        old, new = tmp_path / "cache" / ".part-old", tmp_path / "cache" / ".part-new"
        for path in (old, new):
            path.mkdir(parents=True)
        os.utime(old, (0, 0))

        prepared(jsonl(records()))

        assert not old.exists()
        assert new.exists()


class TestBadRows:
    @pytest.fixture
    def spoilt(self, tmp_path):
        lines = [json.dumps(record) for record in records(8)]
        lines[1], lines[3], lines[6] = "[]", '{"prompt": "a"}', '{"prompt": "\\ud83d"}'
        path = tmp_path / "train.jsonl"
        path.write_text("\n".join(lines))
        return path

    WHERES = (2, 4, 7)

    @pytest.mark.parametrize("processes", [1, 2])
    def test_stop_the_work_and_are_told_together(
        self, prepared, spoilt, small_stretches, processes, tmp_path
    ):
        with pytest.raises(RecordErrors) as caught:
            prepared(spoilt, processes=processes)

        assert [error.where for error in caught.value.errors] == [
            f"{spoilt}:{n}" for n in self.WHERES
        ]
        assert "column 'completion' is missing" in caught.value.errors[1].problem
        assert not list((tmp_path / "cache").glob("*"))

    @pytest.mark.parametrize("processes", [1, 2])
    def test_are_left_out_where_that_is_asked_for(
        self, prepared, spoilt, small_stretches, processes
    ):
        first = prepared(spoilt, on_bad_row="skip", processes=processes)
        again = prepared(spoilt, on_bad_row="skip")

        assert "hit" in again.explained
        for found in (first, again):
            assert [bad.where for bad in found.account.bad] == [
                f"{spoilt}:{n}" for n in self.WHERES
            ]
            assert found.account.good.tolist() == [0, 2, 4, 5, 7]
            assert found.rows.counts("position").tolist() == [0, 2, 4, 5, 7]

    def test_that_were_left_out_before_stop_the_work_now(self, prepared, spoilt):
        prepared(spoilt, on_bad_row="skip")

        with pytest.raises(RecordErrors, match="3 bad rows"):
            prepared(spoilt)

    def test_are_placed_in_the_file_that_is_read(self, prepared, spoilt):
        prepared(spoilt, on_bad_row="skip")
        copy = spoilt.with_name("copy.jsonl")
        copy.write_bytes(spoilt.read_bytes())

        found = prepared(copy, on_bad_row="skip")

        assert "hit" in found.explained
        assert found.account.bad[0].where == f"{copy}:2"

    def test_of_which_there_are_ten_are_enough(self, prepared, jsonl, small_stretches):
        with pytest.raises(RecordErrors, match=r"^10 or more bad rows") as caught:
            prepared(jsonl([{}] * 25))

        assert len(caught.value.errors) == 10

    @pytest.mark.parametrize("policy", ["stop", "skip"])
    def test_may_not_be_all(self, prepared, jsonl, policy):
        with pytest.raises(RecordError, match=r"column 'completion' is missing"):
            prepared(jsonl([{}]), on_bad_row=policy)

    def test_are_those_that_a_transform_fails_on(self, prepared, jsonl):
        task = QA.map(
            lambda record: {
                **record,
                "prompt": record["prompt"][{"3": 99}.get(record["prompt"][0], 0)],
            }
        )

        found = prepared(jsonl(records(5)), task, on_bad_row="skip")

        assert [bad.position for bad in found.account.bad] == [3]
        assert "IndexError" in found.account.bad[0].problem

    def test_are_those_that_a_template_refuses(self, prepared, jsonl, tokenizer):
        refuses = "{% if '3' in messages[0].content %}{{ raise_exception('no 3') }}{% endif %}"
        strict = lk.train_tokenizer(kind="bpe", vocab_size=400, data=records())
        strict = strict.with_template(
            refuses + "{% for m in messages %}{{ m.content }}{% endfor %}"
        )
        task = TASKS["chat"].evolve(formatter=lk.Chat.of(user="{prompt}", assistant="{completion}"))

        found = prepared(jsonl(records(5)), task, tokenizer=strict, on_bad_row="skip")

        assert [bad.position for bad in found.account.bad] == [3]
        assert "no 3" in found.account.bad[0].problem
        with pytest.raises(lk.LmkitError, match=r"train\.jsonl:4: .*no 3"):
            prepared(jsonl(records(5)), task, tokenizer=strict)

    def test_are_not_all_that_may_be_left_out(self, prepared, jsonl):
        with pytest.raises(RecordError, match=r"train\.jsonl: where\(.* leaves out every record"):
            prepared(jsonl(records()), QA.where(lambda record: False))


class TestARun:
    def test_of_a_file_is_that_of_the_same_records_in_memory(self, fit, jsonl, tmp_path, rows):
        runs = [
            fit(tmp_path / str(n), data=data, eval_fraction=0.25)
            for n, data in enumerate([rows, jsonl(rows), jsonl(rows)])
        ]

        weights = {(run.path / "model.safetensors").read_bytes() for run in runs}
        about = [json.loads((run.path / "run.json").read_text("utf-8")) for run in runs]
        assert len(weights) == 1
        assert len({one["data"]["sha256"] for one in about}) == 1
        assert len({(run.path / "eval.jsonl").read_text("utf-8") for run in runs}) == 1
        assert "hit" in about[2]["prepared"][0]

    def test_lists_what_it_left_out(self, fit, tmp_path, rows):
        path = tmp_path / "a.jsonl"
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join([*lines[:2], "{", *lines[2:], "{}"]))

        with pytest.warns(
            UserWarning, match=r"2 bad rows are left out\n.*a\.jsonl:3: not valid JSON"
        ):
            run = fit(tmp_path / "run", data=path, on_bad_row="skip")

        about = json.loads((run.path / "run.json").read_text("utf-8"))
        skipped = [
            json.loads(line) for line in (run.path / "skipped.jsonl").read_text().splitlines()
        ]
        assert about["skipped"] == 2
        assert about["data"]["rows"] == len(rows)
        assert [one["where"] for one in skipped] == [f"{path}:3", f"{path}:{len(rows) + 2}"]
        assert "column 'completion' is missing" in skipped[1]["problem"]

    def test_has_no_list_where_nothing_was_left_out(self, run):
        assert not (run.path / "skipped.jsonl").exists()

    def test_refuses_another_way_with_bad_rows(self, fit, tmp_path):
        with pytest.raises(lk.LmkitError, match="no way with bad rows named 'ignore'"):
            fit(tmp_path / "run", on_bad_row="ignore")

    def test_says_whether_its_rows_were_there(self, fit, jsonl, tmp_path, rows, capsys):
        for name in ("one", "two"):
            fit(tmp_path / name, data=jsonl(rows), explain_cache=True, cache=tmp_path / "cache")

        told = [line for line in capsys.readouterr().err.splitlines() if "prepared rows of" in line]
        assert "miss: nothing was prepared before" in told[0]
        assert "hit, prepared" in told[1]


class TestAnEvaluation:
    @pytest.fixture
    def spoilt(self, tmp_path, rows):
        path = tmp_path / "test.jsonl"
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join([*lines, "7", '{"prompt": "a"}']))
        return path

    def test_skips_bad_rows_and_counts_them(self, run, spoilt, rows):
        with pytest.warns(UserWarning, match="2 bad rows are left out"):
            figures = lk.evaluate(run, data=spoilt, on_bad_row="skip")

        assert figures == {**lk.evaluate(run, data=rows), "skipped": 2}

    def test_stops_at_bad_rows_of_both_kinds(self, run, spoilt):
        with pytest.raises(RecordErrors) as caught:
            lk.evaluate(run, data=spoilt)

        assert [error.where[-3:] for error in caught.value.errors] == [":13", ":14"]

    def test_is_the_same_however_many_records_are_in_memory(self, run, jsonl, rows, monkeypatch):
        whole = lk.evaluate(run, data=rows)
        monkeypatch.setattr("lmkit.evaluating.AT_ONCE_SCORED", 5)

        assert lk.evaluate(run, data=jsonl(rows)) == pytest.approx(whole)


def test_a_rows_content_decides_its_accounts_sha256(prepared, jsonl):
    """Not its place, nor the columns' order, so that a list and a file can stand for each other."""
    turned = [dict(reversed(record.items())) for record in records()]

    assert prepared(turned).account.sha256 == prepared(jsonl(records())).account.sha256
    assert fingerprint([Row(records()[0], "a")]) == fingerprint(records()[:1])
