"""Verbs with tasks that were renamed, mixed and chained."""

import json

import pytest
from exported import ROWS

import lmkit as lk

MODEL = "scratch:gpt2,n_layer=1,n_embd=16,n_head=2,n_positions=64"
ASKED = [{"question": row["prompt"], "completion": row["completion"]} for row in ROWS]
QUESTION = f"question={ROWS[0]['prompt']}"
SHORT = ("--set", "max_steps=2", "--set", "use_cpu=true", "--set", "save_strategy=no")


@pytest.mark.slow
class TestRename:
    def test_a_run_reads_the_datas_columns_from_then_on(self, lmkit, jsonl, tmp_path):
        data = jsonl(ASKED)
        done = lmkit(
            *("train", "qa", "--model", MODEL, "--tokenizer", "char", "--data", data),
            *("--rename", "question=prompt", "--output", tmp_path / "run", *SHORT),
        )
        measured = lmkit("evaluate", tmp_path / "run", "--data", data, "--json")

        assert done.code == 0, done.err
        assert lk.get_task(tmp_path / "run").columns == ("question", "completion")
        assert json.loads(measured.out)["records"] == len(ASKED)

    def test_a_bundle_of_a_named_task_too(self, lmkit, tiny_run, tmp_path):
        done = lmkit(
            *("export", tiny_run, "--task", "qa", "--rename", "질문=prompt"),
            *("--output", tmp_path / "bundle"),
        )
        asked = lmkit("generate", tmp_path / "bundle", "--set", "질문=안녕하세요?")

        assert done.code == 0, done.err
        assert asked.code == 0, asked.err
        assert asked.out.strip()

    def test_the_wrong_way_round_is_told_the_right_one(self, lmkit, jsonl, tmp_path):
        done = lmkit(
            *("train", "qa", "--model", MODEL, "--tokenizer", "char", "--data", jsonl(ASKED)),
            *("--rename", "prompt=question", "--output", tmp_path / "run"),
        )

        assert done.code == 1
        assert "did you mean rename(question='prompt')?" in done.err
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", ["question", "=prompt"])
def test_a_rename_that_is_no_pair_is_usage(lmkit, given):
    done = lmkit(
        *("train", "qa", "--model", "m", "--data", "d", "--output", "o", "--rename", given)
    )

    assert done.code == 2
    assert "expected DATA_COLUMN=TASK_COLUMN" in done.err


def test_a_rename_without_a_task_is_usage(lmkit):
    assert lmkit("export", "run", "--output", "o", "--rename", "a=b").code == 2


MIXTURE = """
import lmkit as lk
mixture = lk.mix({"qa": 1, lk.get_task("qa").rename(question="prompt").evolve(name="ask"): 1})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a mixture in a file, and data for both of its tasks."""
    folder = tmp_path_factory.mktemp("mixture")
    (folder / "mix.py").write_text(MIXTURE, "utf-8")
    for name, rows in (("a", ROWS), ("b", ASKED)):
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return folder


@pytest.mark.slow
class TestMixture:
    @pytest.fixture
    def data(self, folder):
        return ("--data", f"qa={folder / 'a.jsonl'}", "--data", f"ask={folder / 'b.jsonl'}")

    @pytest.fixture
    def train(self, lmkit, folder, data):
        def train(output, *more, task=None, data=data):
            task = task or f"{folder / 'mix.py'}:mixture"
            model = ("--model", MODEL, "--tokenizer", "char")
            return lmkit("train", task, *model, *data, "--output", output, *SHORT, *more)

        return train

    def test_is_trained_measured_and_asked_by_its_tasks(self, lmkit, train, data, tmp_path):
        trained = train(tmp_path / "run", "--eval-fraction", "0.5", "--sample", "1")
        measured = lmkit("evaluate", tmp_path / "run", *data, "--json")
        one = lmkit("evaluate", tmp_path / "run", "--task", "qa", "--data", data[1][3:], "--json")
        asked = lmkit("generate", tmp_path / "run", "--task", "ask", "--set", QUESTION)

        assert trained.code == 0, trained.err
        assert "eval_ask_loss" in trained.out
        assert f"next: lmkit export {tmp_path / 'run'} --task qa" in trained.out
        assert json.loads(measured.out).keys() >= {"qa_loss", "ask_perplexity", "loss"}
        assert json.loads(one.out)["loss"] == pytest.approx(json.loads(measured.out)["qa_loss"])
        assert asked.code == 0, asked.err

    def test_of_which_none_is_chosen_names_its_tasks(self, lmkit, train, tmp_path):
        train(tmp_path / "run")

        for verb in (["generate", "--set", "prompt=x"], ["export", "--output", tmp_path / "b"]):
            done = lmkit(verb[0], tmp_path / "run", *verb[1:])
            assert done.code == 1
            assert "choose one with task= (--task): qa, ask" in done.err

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (["--data", "a.jsonl"], "expected TASK=DATA, such as qa=data.jsonl"),
            (["--data", "qa=a", "--data", "qa=b"], "'qa' is given twice"),
        ],
    )
    def test_with_data_that_names_no_task_is_usage(self, train, tmp_path, data, said):
        done = train(tmp_path / "run", data=data)

        assert done.code == 2
        assert said in done.err

    def test_data_twice_for_one_task_is_usage(self, train, tmp_path):
        assert train(tmp_path / "run", task="qa").code == 2

    def test_cannot_be_shown_as_one_task(self, lmkit, folder):
        done = lmkit("show", f"{folder / 'mix.py'}:mixture")

        assert done.code == 1
        assert "is a mixture of the tasks qa, ask" in done.err


@pytest.mark.slow
class TestCompare:
    def test_shows_answers_and_figures(self, lmkit, jsonl, tiny_run, tiny_bundle):
        done = lmkit("compare", tiny_run, tiny_bundle, "--data", jsonl(ROWS), "--limit", "2")

        assert done.code == 0, done.err
        assert "asked" in done.out
        assert ROWS[0]["prompt"] in done.out
        assert "perplexity" in done.out
        assert "the same answer to 100.0% of 2 records" in done.out

    def test_as_json(self, lmkit, jsonl, tiny_run, tiny_bundle):
        data = jsonl(ROWS[:3])
        done = lmkit(
            "compare", tiny_run, tiny_bundle, "--data", data, "--json", "--temperature", "0"
        )

        found = json.loads(done.out)
        assert found["agreement"] == 1
        assert [row["where"] for row in found["records"]] == [f"{data}:{n}" for n in (1, 2, 3)]
        assert found["records"][0]["reference"] == ROWS[0]["completion"]

    def test_of_unlike_tasks_is_refused(self, lmkit, jsonl, tiny_run, tiny_bundle):
        done = lmkit("compare", tiny_run, tiny_bundle, "--data", jsonl(ROWS), "--task", "alpaca")

        assert done.code == 1
        assert "the first model does 'alpaca' and the second 'qa'" in done.err


@pytest.mark.slow
def test_rows_are_padded_to_a_length_of_the_users(lmkit, jsonl, tmp_path):
    done = lmkit(
        *("train", "qa", "--model", MODEL, "--tokenizer", "char", "--data", jsonl(ROWS), *SHORT),
        *("--output", tmp_path / "run", "--max-length", "40", "--pad-to-max-length"),
    )

    assert done.code == 0, done.err
    assert lk.get_task(tmp_path / "run").collator == lk.CausalCollator(
        max_length=40, pad_to_max_length=True
    )


@pytest.mark.slow
def test_rows_are_packed_where_the_user_says_so(lmkit, jsonl, tmp_path):
    done = lmkit(
        *("train", "qa", "--model", MODEL, "--tokenizer", "char", "--data", jsonl(ROWS), *SHORT),
        *("--output", tmp_path / "run", "--max-length", "48", "--pack"),
    )

    assert done.code == 0, done.err
    assert lk.get_task(tmp_path / "run").collator == lk.CausalCollator(max_length=48, pack=True)


def test_rows_of_a_masked_task_cannot_be_packed(lmkit, tmp_path):
    done = lmkit(
        *("train", "mlm", "--model", "m", "--data", "d", "--output", tmp_path / "run", "--pack")
    )

    assert done.code == 2
    assert "--pack: the task 'mlm' makes its rows with a MaskedCollator" in done.err


@pytest.mark.slow
def test_a_tokenizer_of_characters_knows_those_of_the_task(lmkit, jsonl, tmp_path):
    """None of the data has a colon or the syllables of "질문"."""
    data = jsonl([{"prompt": "하나 둘", "completion": "셋"}] * 4)

    done = lmkit(
        *("train", "qa", "--model", MODEL, "--tokenizer", "char", "--data", data),
        *("--output", tmp_path / "run", *SHORT),
    )
    asked = lmkit("generate", tmp_path / "run", "--set", "prompt=둘", "--max-new-tokens", "2")

    assert done.code == 0, done.err
    assert asked.code == 0, asked.err
