import html
import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import transformers
from tiny import ROWS, TINY

import lmkit as lk
from lmkit.cli.main import run as run_lmkit
from lmkit.errors import ModelError
from lmkit.train import report
from lmkit.train.report import ReportWarning, write

PREVIEW = {
    "task": "qa",
    "family": "causal",
    "data": "train.jsonl",
    "model": "m",
    "shown": [
        {
            "index": 0,
            "where": "train.jsonl:1",
            "why": "first",
            "tokens": [
                {"id": 1, "text": "질문", "kind": "read", "control": False},
                {"id": 2, "text": "<답>", "kind": "learned", "control": False},
                {"id": 3, "text": "</s>", "kind": "learned", "control": True},
            ],
            "target": [],
            "n_tokens": 3,
            "n_learned": 2,
            "n_cut": 0,
        }
    ],
    "totals": {
        "records": 12,
        "rows": 12,
        "dropped": {},
        "tokens": 100,
        "learned": 40,
        "cut_rows": 0,
        "cut_tokens": 0,
        "max_length": 20,
        "packing_fill": 0.97,
        "padding_share": 0.1,
    },
    "lengths": [],
    "findings": [
        {
            "name": "duplicate-rows",
            "level": "warning",
            "text": "two rows are the same",
            "remedy": "drop one of them",
            "count": 2,
            "of": 12,
            "where": "train.jsonl:4",
            "excerpt": "",
        }
    ],
    "about": {},
}


def said(page):
    """Return a page's text as a reader sees it, on one line."""
    page = re.sub(r"<style.*?</style>|<script.*?</script>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


@pytest.fixture(scope="module")
def page(run):
    return (run.path / "report.html").read_text("utf-8")


@pytest.fixture
def folder(run, tmp_path):
    """Return a copy of a run's folder, to be changed."""
    return Path(shutil.copytree(run.path, tmp_path / "run"))


class TestAReport:
    def test_a_training_leaves_one_from_which_transformers_still_loads(self, run, page):
        assert page.startswith("<!doctype html>")
        assert transformers.AutoModelForCausalLM.from_pretrained(run.path).config.n_layer == 1

    def test_it_says_what_was_trained_from_what(self, run, page):
        about = json.loads((run.path / "run.json").read_text("utf-8"))
        text = said(page)

        assert run.task.description in text
        assert about["model"] in text
        assert f"{about['parameters']['trainable']:,} trained of" in text
        assert f"{len(ROWS)} records" in text
        for name in ("torch", "transformers", "datasets", "tokenizers", "python"):
            assert about["versions"][name] in text
        assert "Trained to the end, 4 steps" in text

    def test_it_says_how_it_could_be_made_again(self, page):
        assert "lk.train('qa', model='scratch:gpt2," in said(page)
        assert "learning_rate 0.01" in said(page)

    def test_its_figures_are_those_of_the_log(self, run, page):
        lines = (run.path / "metrics.jsonl").read_text("utf-8").splitlines()
        losses = [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]

        for loss in losses:
            assert f"<td>{loss:.3f}</td>" in page
        assert f"{run.metrics['eval_loss']:.3f}" in said(page)

    def test_it_draws_loss_learning_rate_gradient_and_perplexity(self, page):
        titles = re.findall(r"<figcaption>(.*?)</figcaption>", page)

        assert len(titles) == len(re.findall('<svg class="plot"', page)) == 4

    def test_no_id_is_there_twice(self, page):
        ids = re.findall(r' id="([^"]*)"', page)

        assert len(ids) == len(set(ids))

    def test_nothing_is_loaded_from_anywhere(self, page):
        plain = page.replace("http://www.w3.org/", "")

        assert not re.search(r"https?://|\bsrc=|@import|<link", plain)

    def test_it_is_made_from_the_folder_alone(self, folder, page):
        (folder / "report.html").unlink()

        assert write(folder).read_text("utf-8") == page

    def test_it_has_no_path_but_those_that_were_typed(self, page):
        assert str(Path.home()) not in page
        assert str(Path(lk.__file__).parent) not in page

    def test_a_folder_without_a_run_is_refused(self, tmp_path):
        with pytest.raises(ModelError, match="holds no run"):
            write(tmp_path)


class TestSamples:
    def test_without_them_it_says_how_to_get_them(self, page):
        assert "--sample 3" in said(page)

    def test_answers_before_and_after_stand_beside_the_reference(self, fit, tmp_path):
        run = fit(
            tmp_path / "run", sample=2, eval_data=ROWS[:2], eval_strategy="steps", eval_steps=1
        )
        lines = (run.path / "samples.jsonl").read_text("utf-8").splitlines()
        text = said((run.path / "report.html").read_text("utf-8"))

        for entry in map(json.loads, lines):
            assert entry["asked"] in text
            assert entry["reference"].strip() in text
            assert " ".join(entry["answer"].split()) in text
        assert "Before, at step 0" in text
        assert "After, at step 2" in text
        assert "At step 1" in text

    def test_what_a_model_or_a_record_says_is_text_only(self, folder):
        evil = "<script>alert('야')</script>&amp;"
        entry = {"record": {}, "asked": evil, "reference": evil, "answer": evil}
        lines = [json.dumps({"step": step, **entry}) for step in (0, 4)]
        (folder / "samples.jsonl").write_text("\n".join(lines), "utf-8")

        page = write(folder).read_text("utf-8")

        assert "<script>alert" not in page
        assert page.count(html.escape(evil).replace("&#x27;", "&#39;")) == 4


class TestTheData:
    def test_what_was_found_stands_with_its_remedy(self, folder):
        (folder / "preview.json").write_text(json.dumps(PREVIEW), "utf-8")

        text = said(write(folder).read_text("utf-8"))

        assert "two rows are the same" in text
        assert "drop one of them" in text
        assert "train.jsonl:4" in text

    def test_the_first_row_shows_what_is_learned(self, folder):
        (folder / "preview.json").write_text(json.dumps(PREVIEW), "utf-8")

        page = write(folder).read_text("utf-8")

        assert '<span class="read">질문</span>' in page
        assert '<span class="learned">&lt;답&gt;</span>' in page
        assert '<span class="learned control">&lt;/s&gt;</span>' in page


class TestTheCommand:
    def train(self, tmp_path, monkeypatch, *words):
        monkeypatch.chdir(tmp_path)
        Path("물음 답.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
        model = "scratch:gpt2," + ",".join(f"{name}={number}" for name, number in TINY.items())
        command = ["train", "qa", "--model", model, "--tokenizer", "char:unk"]
        settings = ["--set", "max_steps=1", "--set", "use_cpu=true", "--set", "save_strategy=no"]
        command += ["--data", "물음 답.jsonl", "--output", "run", *settings, *words]
        assert run_lmkit(command) == 0
        return said(Path("run/report.html").read_text("utf-8"))

    def test_it_is_what_was_typed_quoted_for_a_shell(self, tmp_path, monkeypatch):
        text = self.train(tmp_path, monkeypatch)

        assert "lmkit train qa --model scratch:gpt2,n_layer=1" in text
        assert "--data '물음 답.jsonl' --output run --set max_steps=1" in text

    def test_a_hubs_token_is_in_no_file_of_the_run(self, tmp_path, monkeypatch):
        text = self.train(tmp_path, monkeypatch, "--set", "hub_token=hf_geheim")

        assert "--set hub_token=..." in text
        for name in ("run.json", "report.html", "metrics.jsonl"):
            assert "hf_geheim" not in Path("run", name).read_text("utf-8")


class TestARunThatStops:
    def test_ctrl_c_leaves_a_report_up_to_there_and_a_resumed_one_covers_it_all(
        self, fit, tmp_path, monkeypatch
    ):
        changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "logging_steps": 1}
        from lmkit.train.progress import MetricsLog

        log = MetricsLog.on_log

        def interrupted(self, args, state, control, logs=None, **kwargs):
            log(self, args, state, control, logs, **kwargs)
            if state.global_step == 3:
                signal.raise_signal(signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr(MetricsLog, "on_log", interrupted)
            with pytest.raises(KeyboardInterrupt):
                fit(tmp_path / "run", **changes)
        halfway = said((tmp_path / "run" / "report.html").read_text("utf-8"))
        resumed = fit(tmp_path / "run", resume=True, **changes)
        whole = said((resumed.path / "report.html").read_text("utf-8"))

        assert "Interrupted at step 3 of 4; --resume goes on" in halfway
        assert "Trained to the end, 4 steps" in whole
        assert "Resumed" in whole
        assert whole.count("lk.train(") == 2
        steps = re.findall(
            r'<th scope="row">(\d)</th>', (resumed.path / "report.html").read_text("utf-8")
        )
        assert steps == ["1", "2", "3", "4"]

    def test_a_report_that_fails_is_told_and_the_run_is_whole(self, fit, tmp_path, monkeypatch):
        monkeypatch.setattr(report, "_plots", lambda steps, names: 1 / 0)

        with pytest.warns(
            ReportWarning, match=r"report.html could not be written.*ZeroDivisionError"
        ):
            run = fit(tmp_path / "run")

        assert json.loads((run.path / "run.json").read_text("utf-8"))["finished"] is True

    def test_matplotlib_missing_is_told_with_what_to_install(self, folder, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

        with pytest.warns(ReportWarning, match=r"pip install 'lmkit-tasks\[train\]'"):
            report.write_or_warn(folder)

    def test_a_checkpoint_brings_a_report_while_it_is_trained(self, fit, tmp_path, monkeypatch):
        from lmkit.train import progress

        seen = []
        monkeypatch.setattr(progress, "write_or_warn", lambda folder: seen.append(folder.name))
        monkeypatch.setattr(progress.KeepReport.__init__, "__defaults__", (0.0,))

        fit(tmp_path / "run", save_strategy="steps", save_steps=1)

        assert seen == ["run", "run"]


def test_a_mixture_has_a_curve_for_each_task(fit, tmp_path):
    tasks = [lk.get_task("qa").evolve(name=name) for name in ("물음", "qa")]
    run = fit(
        tmp_path / "run",
        task=lk.mix({tasks[0]: 1, tasks[1]: 1}),
        data={"물음": ROWS, "qa": ROWS},
        eval_data={"물음": ROWS[:2], "qa": ROWS[:2]},
        logging_steps=1,
    )
    page = (run.path / "report.html").read_text("utf-8")
    text = said(page)

    assert "Training loss by task 물음 qa" in text
    assert "Evaluation loss by task 물음 qa" in text
    assert "물음" not in "".join(re.findall(r'<svg class="plot".*?</svg>', page))
    assert "mix({'물음': 1, 'qa': 1})" in text
