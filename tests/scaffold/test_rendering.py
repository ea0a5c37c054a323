"""Every variant of a new plugin, written, and held to what a careful author would hold it to."""

import ast
import json
import re
import sys
import tomllib
import xml.etree.ElementTree as ET

import pytest
import yaml

from lmkit import __version__
from lmkit.scaffold.rendering import import_lines
from lmkit.scaffold.variants import Variant

from .conftest import run_with, write

HEAVY = (
    "accelerate datasets gguf matplotlib onnx onnx_ir onnxruntime onnxruntime_genai onnxscript peft "
    "pyarrow rouge_score tokenizers torch transformers"
)
LIGHT = ("-p", "without_torch")
OURS = ["lmkit", "lmkit.testing"]  # what of lmkit a plugin and its tests may import


def imported(path):
    """Return the modules that a file imports, at its top and inside of functions."""
    tree = ast.walk(ast.parse(path.read_text("utf-8")))
    found = [node for node in tree if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [alias.name for node in found if isinstance(node, ast.Import) for alias in node.names]
    return {*names, *(node.module for node in found if isinstance(node, ast.ImportFrom))}


def roots(modules):
    return {module.partition(".")[0] for module in modules} - sys.stdlib_module_names


class TestTheFiles:
    def test_nothing_of_the_template_is_left_in_them(self, everything):
        for made in everything:
            for path in made.folder.rglob("*"):
                if path.is_file() and path.name != "test.yml":
                    assert not re.search(r"\{\{|\{%|%\}", path.read_text("utf-8")), path

    def test_each_ends_with_one_line_break_and_has_no_trailing_spaces(self, everything):
        for made in everything:
            for path in made.folder.rglob("*"):
                if path.is_file() and "dist-info" not in str(path):
                    text = path.read_text("utf-8")
                    assert text.endswith("\n"), path
                    assert not text.endswith("\n\n"), path
                    assert not re.search(r"[ \t]\n|\n\n\n\n", text), path

    def test_the_package_names_the_module_as_its_entry_point(self, everything):
        for made in everything:
            project = tomllib.loads((made.folder / "pyproject.toml").read_text("utf-8"))["project"]

            assert project["entry-points"]["lmkit"] == {made.names.name: made.names.module}
            assert project["name"] == made.names.distribution
            assert project["authors"] == [{"name": "Ann Lee", "email": "ann@example.org"}]

    def test_it_depends_on_exactly_what_it_imports(self, everything):
        for made in everything:
            project = tomllib.loads((made.folder / "pyproject.toml").read_text("utf-8"))["project"]
            own, *others = project["dependencies"]

            assert own == f"lmkit-tasks>={__version__}"
            assert {"lmkit", *others} == roots(imported(made.module)) - {"torch"}

    def test_it_imports_only_what_lmkit_promises(self, everything):
        for made in everything:
            modules = imported(made.module) | imported(made.tests)

            assert [name for name in modules if name.startswith("lmkit.")] == OURS[1:]

    def test_the_ci_file_is_valid_and_runs_the_tests(self, everything):
        for made in everything:
            text = (made.folder / ".github/workflows/test.yml").read_text("utf-8")
            job = yaml.safe_load(text)["jobs"]["test"]
            runs = [step["run"] for step in job["steps"] if "run" in step]
            setup = next(step for step in job["steps"] if "setup-python" in step.get("uses", ""))

            assert setup["with"]["python-version"] == "${{ matrix.python }}"
            assert runs[0].startswith("pip install -e '.[test]'")
            assert runs[-1] == "pytest"

    def test_the_readme_names_files_that_are_there(self, everything):
        for made in everything:
            text = (made.folder / "README.md").read_text("utf-8")
            named = re.findall(r"^\| `(\S+)` \|", text, re.M)

            assert len(named) == 5
            assert all((made.folder / path).is_file() for path in named)


class TestTheRecords:
    def test_there_are_eight_or_more_half_of_them_korean_and_no_two_alike(self, everything):
        for made in everything:
            lines = made.samples.read_text("utf-8").splitlines()
            korean = [line for line in lines if re.search("[가-힣]", line)]

            assert len(set(lines)) == len(lines) >= 8
            assert len(korean) == len(lines) / 2
            assert all(isinstance(json.loads(line), dict) for line in lines)


class TestTheCode:
    def test_ruff_finds_nothing_in_it_and_would_write_it_the_same(self, everything):
        for check in (["check"], ["format", "--check"]):
            done = run_with(
                [], "-m", "ruff", *check, "--no-cache", ".", cwd=everything[0].folder.parent
            )

            assert done.returncode == 0, done.stdout

    @pytest.mark.slow
    def test_mypy_finds_nothing_in_it_however_strict(self, everything, tmp_path):
        """The heavy packages are skipped, as they are for lmkit itself."""
        config = tmp_path / "mypy.ini"
        config.write_text(
            "[mypy]\nstrict = true\nfollow_imports = silent\n"
            f"[mypy-{HEAVY.replace(' ', '.*,')}.*]\n"
            "follow_imports = skip\nignore_missing_imports = true\n"
        )
        files = [path for made in everything for path in (made.module, made.tests)]
        done = run_with(
            everything, "-m", "mypy", "--config-file", config, "--cache-dir", tmp_path / "cache",
            *files, cwd=tmp_path,
        )  # fmt: skip

        assert done.stdout == f"Success: no issues found in {len(files)} source files\n"

    def test_importing_it_imports_nothing_heavy(self, everything, tmp_path):
        modules = ", ".join(made.names.module for made in everything)
        script = f"import sys, lmkit.plugins, {modules}; lmkit.plugins(); print(*sys.modules)"
        done = run_with(everything, "-c", script, cwd=tmp_path)

        assert done.stderr == ""
        assert not {"torch", "transformers", "datasets", "onnxruntime"} & set(done.stdout.split())

    def test_lmkit_finds_all_that_each_offers(self, everything, tmp_path):
        script = "from lmkit.cli.main import main; main()"
        done = run_with(everything, "-c", script, "plugins", "--json", cwd=tmp_path)
        found = {row["name"]: row for row in json.loads(done.stdout)["plugins"]}

        for made in everything:
            row = found[made.names.name]
            own = [part for part in made.variant.parts if part != "command"]
            assert row["error"] is None
            assert row["tasks"] == [made.names.name]
            assert len(row["components"]) == len(own)
            assert len(row["commands"]) == ("command" in made.variant.parts)


WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "datasets", "onnx", "onnxscript"):
    sys.modules[name] = None
"""


def results(plugins, tmp_path, *options):
    """Run the tests of some plugins; return each one's failures, as pytest shows them.

    Args:
        plugins: what is tested, all in one process.
        tmp_path: where pytest writes its report.
        options: what else pytest is told; `*LIGHT` hides torch, without which a check is quick.
    Returns:
        For each plugin's name, the failed tests: a mapping from a test's name to its text. And what
        came of pytest.
    """
    (tmp_path / "without_torch.py").write_text(WITHOUT_TORCH)
    report = tmp_path / "report.xml"
    (plugins[0].folder.parent / "pytest.ini").write_text("[pytest]\n")  # the root of them all
    paths = [path for made in plugins for path in (made.module, made.tests)]
    done = run_with(
        plugins, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--doctest-modules", "--tb=short",
        "--continue-on-collection-errors", f"--junitxml={report}", *options, *paths, cwd=tmp_path,
    )  # fmt: skip
    assert report.is_file(), done.stdout + done.stderr
    failures = {made.names.name: {} for made in plugins}
    for case in ET.parse(report).iter("testcase"):
        where = f"{case.get('classname')} {case.get('name')}"
        for made in plugins:
            for failure in [*case.iter("failure"), *case.iter("error")]:
                if re.search(rf"\b(lmkit|test)_{made.names.identifier}\b", where):
                    failures[made.names.name][case.get("name")] = failure.text
    return failures, done


@pytest.mark.slow
class TestTheTests:
    def test_they_pass_as_they_are(self, everything, tmp_path):
        failures, done = results(everything, tmp_path, *LIGHT)

        assert failures == {made.names.name: {} for made in everything}
        assert re.search(r"^\d{3} passed", done.stdout, re.M), done.stdout

    def test_so_do_those_that_need_torch(self, everything, tmp_path):
        """All that have a loss; and every promise of one, as `tox -e plugins` checks two others."""
        one = [made for made in everything if made.names.name == "of-seq2seq-full"]
        failures, done = results(one, tmp_path, "-k", "promises")
        losses = [made for made in everything if "loss" in made.variant.parts]
        own, also = results(losses, tmp_path, "-k", "sure_weighs_less")

        assert not any([*failures.values(), *own.values()])
        assert "1 passed" in done.stdout
        assert f"{len(losses)} passed" in also.stdout


BREAKS = {
    # name: (variant, file, before, after, which test says so, and what it says)
    "renamed-column": (
        "causal", "module", "{note}", "{notes}",
        "test_the_task_keeps_its_promises_on_every_sample",
        "column 'notes' is missing; the record has note, title",
    ),
    "other-prompt": (
        "causal", "module", "Title:", "Title: ",
        "test_the_model_is_asked_for_a_title", "+ Title: ",
    ),
    "short-rows": (
        "causal", "module", "max_length=256", "max_length=4",
        "test_it_learns_the_title_and_to_stop_there", "-  Fish<|endoftext|>",
    ),
    "no-target": (
        "seq2seq", "module", 'lk.target("{polite}")', 'lk.context("{polite}")',
        "lmkit-no-target.lmkit_no_target", "has no target(...)",
    ),
    "blank-mask": (
        "masked", "module", "{text}", "Proverb: {text}",
        "test_everything_in_the_text_may_be_hidden", "+ Proverb: 쉿, quiet!",
    ),
    "other-label": (
        "labels", "module", '"praise"', '"prise"',
        "test_the_task_keeps_its_promises_on_every_sample",
        "the answer is 'praise'; expected one of the labels 'question', 'complaint', 'prise'",
    ),
    "missing-label": (
        "labels", "samples", "praise", "question",
        "test_every_label_is_among_the_sample_records", "'praise'",
    ),
    "learns-all": (
        "chat", "module", "lk.Chat(", 'lk.Chat(learn="all",',
        "test_it_learns_what_the_assistant_says_and_nothing_else", "+ <|im_start|>system",
    ),
    "unknown-role": (
        "chat", "samples", "assistant", "bot",
        "test_the_task_keeps_its_promises_on_every_sample", "role is 'bot', expected one of",
    ),
    "formatter-unoffered": (
        "causal+formatter", "module", "return [OneLineFormatter]", "return []",
        "test_the_task_keeps_its_promises_on_every_sample",
        "OneLineFormatter has no name in JSON; offer the class in a plugin's lmkit_components",
    ),
    "formatter-prompt": (
        "causal+formatter", "module", "TEMPLATE.prompt(tidy(record)", "TEMPLATE.prompt((record)",
        "test_every_column_is_written_on_one_line", "two \\n lines",
    ),
    "collator-width": (
        "seq2seq+collator", "module", "1 << (longest - 1).bit_length()", "longest + 1",
        "test_a_batch_is_as_wide_as_a_power_of_two", "== 0",
    ),
    "decoder-sentences": (
        "causal+decoder", "module", "[.?!]", "[.]",
        "lmkit_decoder_sentences.SentencesDecoder", "And so on.",
    ),
    "metric-shares": (
        "seq2seq+metric", "module", "2 * shared.total()", "shared.total()",
        "test_an_answer_that_is_nearly_right_counts_in_part", "character_f1",
    ),
    "command-silent": (
        "masked+command", "module", "        first.setdefault(asked, number)\n", "",
        "test_the_command_names_the_line_that_asks_the_same", "no two ask the same",
    ),
    "loss-sign": (
        "causal+loss", "module", "(1 - torch.exp(-plain))", "(1 + torch.exp(-plain))",
        "test_a_token_that_is_sure_weighs_less", "0.001",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Return what the tests of each broken plugin say; all of them run in one process."""
    folder = tmp_path_factory.mktemp("broken")
    plugins = []
    for name, (variant, file, before, after, *_) in BREAKS.items():
        family, *parts = variant.split("+")
        made = write(folder, name, Variant(family, parts))
        made.change(getattr(made, file), before, after)
        plugins.append(made)
    found, _ = results(plugins, folder, *LIGHT)
    own, _ = results(plugins[-1:], folder, "-k", "not promises")  # of what trains, and needs torch
    return found | own


@pytest.mark.slow
@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_said_by_a_test_whose_name_says_what(broken, name):
    *_, test, said = BREAKS[name]
    failed = broken[name]

    assert any(test in found for found in failed), failed.keys()
    assert said in "".join(text for found, text in failed.items() if test in found)


class TestImports:
    def test_a_line_that_is_too_long_is_broken_up(self):
        names = [f"from lmkit_haiku import Part{number}OfAPlugin" for number in range(5)]

        assert import_lines(names, own="lmkit_haiku").splitlines()[:2] == [
            "from lmkit_haiku import (",
            "    Part0OfAPlugin,",
        ]

    def test_the_standard_library_comes_first_and_the_plugin_last(self):
        lines = ["from lmkit_b import b", "import attrs", "import re", "from collections import x"]

        assert import_lines(lines, own="lmkit_b") == (
            "import re\nfrom collections import x\n\nimport attrs\n\nfrom lmkit_b import b"
        )
