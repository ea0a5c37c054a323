import html
import json
import re
import shutil
from pathlib import Path

import pytest
import transformers
from browser import opened, sideways
from tiny import ROWS, TINY

import lmkit as lk
from lmkit.cli.main import run as run_lmkit
from lmkit.errors import ModelError
from lmkit.train.reporting import report
from lmkit.train.reporting.report import ReportWarning, write

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
    page = re.sub(r"<(style|script|svg)\b.*?</\1>", "", page, flags=re.DOTALL)
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
        assert page.lstrip().startswith("<!DOCTYPE html>")
        assert transformers.AutoModelForCausalLM.from_pretrained(run.path).config.n_layer == 1

    def test_it_says_what_was_trained_from_what(self, run, page):
        about = json.loads((run.path / "run.json").read_text("utf-8"))
        text = said(page)

        assert run.task.description in text
        assert about["model"] in text
        assert f"Trained parameters {about['parameters']['trainable']:,}" in text
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
        plots = re.findall(r'data-word="plot-(\w+)"', page)

        assert plots == ["loss", "perplexity", "rate", "gradient"]
        assert len(re.findall('<svg class="plot"', page)) == 4

    def test_no_id_is_there_twice(self, page):
        ids = re.findall(r' id="([^"]*)"', page)

        assert len(ids) == len(set(ids))

    def test_nothing_is_loaded_from_anywhere(self, page):
        assert not re.search(r"https?://|\bsrc=|@import", page)

    def test_it_is_made_from_the_folder_alone(self, folder, page):
        (folder / "report.html").unlink()

        assert write(folder).read_text("utf-8") == page

    def test_it_has_no_path_but_those_that_were_typed(self, page):
        assert str(Path.home()) not in page
        assert str(Path(lk.__file__).parent) not in page

    def test_a_folder_without_a_run_is_refused(self, tmp_path):
        with pytest.raises(ModelError, match="holds no run"):
            write(tmp_path)


class TestAReportOfManySteps:
    def test_its_table_is_short_and_keeps_the_evaluations_and_the_last(self, folder):
        lines = [{"step": step, "loss": 2.0} for step in range(1, 1001)]
        lines += [{"step": step, "eval_loss": 1.0} for step in range(333, 1000, 333)]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")

        page = write(folder).read_text("utf-8")
        steps = re.findall(r'<th scope="row">([\d,]+)</th>', page)

        assert len(steps) <= 2 * report.MOST_ROWS
        assert {"1", "333", "666", "999", "1,000"} <= set(steps)
        assert "of 1,000 steps; all are in metrics.jsonl" in said(page)

    def test_one_that_keeps_the_best_model_says_which_it_is(self, fit, tmp_path):
        run = fit(
            tmp_path / "run",
            eval_data=ROWS[:3],
            load_best_model_at_end=True,
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=1,
            save_steps=1,
        )

        text = said((run.path / "report.html").read_text("utf-8"))

        assert re.search(r"The model that was kept is that of step [12], where", text)


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
        assert "at step 1" in text

    def test_what_a_model_or_a_record_says_is_text_only(self, folder):
        evil = "<script>alert('야')</script>&amp;"
        entry = {"record": {}, "asked": evil, "reference": evil, "answer": evil}
        lines = [json.dumps({"step": step, **entry}) for step in (0, 4)]
        (folder / "samples.jsonl").write_text("\n".join(lines), "utf-8")

        page = write(folder).read_text("utf-8")

        assert "<script>alert" not in page
        assert said(page).count(evil) == 4


class TestTheData:
    def test_what_was_found_stands_with_its_remedy(self, folder):
        (folder / "preview.json").write_text(json.dumps(PREVIEW), "utf-8")

        text = said(write(folder).read_text("utf-8"))

        assert "two rows are the same" in text
        assert "drop one of them" in text
        assert "train.jsonl:4" in text

    def test_a_mixture_has_that_of_each_task_and_no_id_twice(self, folder):
        other = {**PREVIEW, "task": "다른 작업"}
        (folder / "preview.json").write_text(json.dumps([PREVIEW, other]), "utf-8")

        page = write(folder).read_text("utf-8")
        ids = re.findall(r' id="([^"]*)"', page)

        assert "Data: 다른 작업" in said(page)
        assert len(ids) == len(set(ids))

    def test_the_first_row_shows_what_is_learned(self, folder):
        (folder / "preview.json").write_text(json.dumps(PREVIEW), "utf-8")

        page = write(folder).read_text("utf-8")

        tokens = page[page.index('<div class="tokens"') :]
        assert '<span class="read">질문</span>' in tokens
        assert '<span class="learned">&lt;답&gt;</span>' in tokens
        assert '<span class="learned control">&lt;/s&gt;</span>' in tokens


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
                raise KeyboardInterrupt

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
    assert "Perplexity of 물음" in text
    assert "물음" not in "".join(re.findall(r'<svg class="plot".*?</svg>', page))
    assert "mix({'물음': 1, 'qa': 1})" in text


@pytest.fixture(scope="module")
def whole(fit, tmp_path_factory):
    """Return a run with all that a report may hold."""
    folder = tmp_path_factory.mktemp("seen") / "run"
    long = [{**row, "prompt": "가" * 20 + row["prompt"]} for row in ROWS]
    run = fit(
        folder,
        data=long,
        sample=2,
        eval_data=long[:4],
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        max_steps=3,
    )
    (folder / "preview.json").write_text(json.dumps(PREVIEW), "utf-8")
    return write(run.path)


class TestInABrowser:
    """What a reader sees, who has no network: `opened` refuses requests and messages."""

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [360, 1280])
    def test_it_fits_its_window_in_silence(self, browser, whole, width, scheme):
        window = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
        with opened(browser, whole, **window) as tab:
            for summary in tab.locator("summary").all():
                summary.click()

            assert sideways(tab) <= 0
            assert tab.locator("svg.plot").count() == 4

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_all_of_its_text_stands_out_from_its_ground(self, browser, whole, scheme):
        with opened(browser, whole, color_scheme=scheme) as tab:
            tab.evaluate(
                "document.querySelectorAll('details').forEach((part) => { part.open = true; })"
            )
            faint = tab.evaluate(FAINT)

        assert faint == []

    def test_lines_are_drawn_in_colours_that_follow_the_choice(self, browser, whole):
        stroke = "getComputedStyle(document.querySelector('svg.plot path[clip-path][stroke*=line]')).stroke"
        with opened(browser, whole, color_scheme="light") as tab:
            light = tab.evaluate(stroke)
            tab.locator("#theme").click()

            assert light == "rgb(10, 82, 194)"
            assert tab.evaluate(stroke) == "rgb(141, 184, 255)"

    def test_it_speaks_korean_to_who_reads_korean(self, browser, whole):
        with opened(browser, whole, locale="ko-KR") as tab:
            titles = tab.locator("h2").all_inner_texts()
            tab.locator("#language").click()

            assert titles[0] == "마지막 수치"
            assert tab.locator("h2").first.inner_text() == "Last figures"

    def test_it_is_whole_without_scripts(self, browser, whole):
        with opened(browser, whole, java_script_enabled=False) as tab:
            assert tab.locator("h2").first.inner_text() == "Last figures"
            assert tab.locator(".said").first.is_visible()


# Texts whose colour has less contrast to what lies behind them than WCAG's AA asks for.
# Source: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
FAINT = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = rgb(getComputedStyle(element).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return rgb("Canvas");
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = element.closest("svg") ? style.fill : style.color;
    const [one, other] = [light(rgb(ink)), light(ground(element))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) found.push(`${texts.currentNode.data.trim()}: ${contrast.toFixed(2)}`);
  }
  return found;
}"""
