"""A part of every kind from a third party's wheel: trained with here, answered with in a clean venv.

`tox -e plugins` runs this file by its name, in an environment that has lmkit from its wheel and torch.
There lmkit-parts is installed, trained with and exported with (`make_parts.py`). What came of it is
taken to a venv that has lmkit's wheel, the plugin's, and no torch; and where the plugin is missing, or
another version of it, the line that lmkit says is typed as it stands.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
PARTS = HERE / "lmkit-parts"
FAMILIES = ["parts-answers", "parts-titles", "parts-gaps"]
ALL = [*FAMILIES, "parts-plain"]


def call(*command, cwd):
    """Run a command as a shell would, away from the checkout; return what came of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LMKIT_")}
    kept.pop("PYTHONPATH", None)
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=kept | {"PYTHONIOENCODING": "utf-8", "NO_COLOR": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def pip(python, *args):
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *map(str, args)], check=True)


def wheel_of(source, folder):
    """Build a wheel with the hatchling that is here."""
    pip(sys.executable, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Return a folder with lmkit-parts 1.2, and 1.3, which has no decoder for gaps any more."""
    folder = tmp_path_factory.mktemp("wheels")
    source = shutil.copytree(PARTS, tmp_path_factory.mktemp("source") / "parts")
    wheel_of(source, folder)
    for file, old, new in (
        ("pyproject.toml", 'version = "1.2"', 'version = "1.3"'),
        ("lmkit_parts/__init__.py", "Lines, Longest, Shared", "Lines, Shared"),
        ("lmkit_parts/__init__.py", "[ANSWERS, TITLES, GAPS]", "[ANSWERS, TITLES]"),
    ):
        text = (source / file).read_text("utf-8")
        assert old in text
        (source / file).write_text(text.replace(old, new), "utf-8")
    wheel_of(source, folder)
    return folder


@pytest.fixture(scope="module")
def lmkits_wheel(tmp_path_factory):
    """Return the wheel that tox installed, or one like it."""
    given = os.environ.get("TOX_PACKAGE", "")
    if given.endswith(".whl"):
        return Path(given)
    folder = tmp_path_factory.mktemp("lmkit")
    wheel_of(CHECKOUT, folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def _made(wheels, tmp_path_factory):
    """Begin to train and export, which goes on while the clean venv is made."""
    folder = tmp_path_factory.mktemp("made")
    pip(sys.executable, "uninstall", "-q", "--yes", "lmkit-parts")  # of an interrupted run
    pip(sys.executable, "install", "-q", "--no-index", f"--find-links={wheels}", "lmkit-parts==1.2")
    # Not from the checkout: the modules must come from their wheels.
    script = shutil.copy(HERE / "make_parts.py", folder)
    with open(folder / "log", "w", encoding="utf-8") as log:
        yield (
            folder,
            subprocess.Popen(
                [sys.executable, script], cwd=folder, stdout=log, stderr=subprocess.STDOUT
            ),
        )
    pip(sys.executable, "uninstall", "-q", "--yes", "lmkit-parts")


@pytest.fixture(scope="module")
def machine(_made, wheels, lmkits_wheel, tmp_path_factory):
    """Return another machine: a venv with lmkit and lmkit-parts 1.2 from their wheels, and no more."""
    machine = Machine(tmp_path_factory.mktemp("machine"), wheels)
    machine.pip("install", "-q", lmkits_wheel, wheels / "lmkit_parts-1.2-py3-none-any.whl")
    return machine


class Machine:
    """A venv without pip, beside a folder to work in."""

    def __init__(self, folder, wheels):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        scripts = Path(sysconfig.get_path("scripts", vars={"base": str(folder / "venv")}))
        self.python, self._lmkit = scripts / "python", scripts / "lmkit"
        self.folder, self._wheels = folder, wheels

    def pip(self, *args):
        pip(self.python, *args)

    def has(self, version):
        """Install that version of the plugin, or none."""
        if version is None:
            self.pip("uninstall", "-q", "--yes", "lmkit-parts")
        else:
            self.type(f"pip install 'lmkit-parts=={version}'")

    def type(self, line):
        """Type a line that pip is to obey; the package index is the folder of wheels."""
        pip_, *args = shlex.split(line)
        assert pip_ == "pip"
        self.pip(*args, "-q", "--no-index", f"--find-links={self._wheels}")

    def lmkit(self, *args):
        return call(self._lmkit, *args, cwd=self.folder)

    def run(self, script):
        return call(self.python, "-c", script, cwd=self.folder)


@pytest.fixture(scope="module")
def said(_made, machine):
    """Return what the machine that trained said of each task; its files are on the other one then."""
    folder, making = _made
    assert making.wait() == 0, (folder / "log").read_text("utf-8")
    shutil.copytree(folder, machine.folder, dirs_exist_ok=True)
    return json.loads((folder / "said.json").read_text("utf-8"))


@pytest.fixture(scope="class")
def _without(said, machine):
    machine.has(None)
    yield
    machine.has("1.2")


@pytest.fixture(scope="class")
def _newer(said, machine):
    machine.has("1.3")
    yield
    machine.has("1.2")


def values(machine, name):
    """Return the answers to the first record of the data, and what that said on the way."""
    asked = {"text": "사과의 색은 [MASK] 이다"}
    row = json.loads((machine.folder / "data.jsonl").read_text("utf-8").splitlines()[0]) | asked
    (machine.folder / "asked.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    (machine.folder / "answers.jsonl").unlink(missing_ok=True)
    done = machine.lmkit("generate", name, "--input", "asked.jsonl", "--output", "answers.jsonl")
    if done.returncode:
        return None, done.stderr
    answer = json.loads((machine.folder / "answers.jsonl").read_text("utf-8"))["answer"]
    return answer["value"], done.stderr


class TestWhereItWasTrained:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_the_run_and_its_bundle_measure_the_same(self, said, name):
        """By its collator's labels, and its metric's lines."""
        run, bundle = said[name]["run"], said[name]["bundle"]

        assert bundle == pytest.approx(run, rel=1e-3)

    def test_it_was_learned(self, said):
        assert said["parts-answers"]["value"][0] == "빨강"
        assert said["parts-answers"]["run"]["shared_lines"] > 0.5

    def test_its_loss_was_made_small(self, said, machine):
        rows = (machine.folder / "parts-answers-run" / "metrics.jsonl").read_text("utf-8")
        losses = [row["loss"] for row in map(json.loads, rows.splitlines()) if "loss" in row]

        assert losses[-1] < losses[0] / 2

    @pytest.mark.parametrize("file", [f"{name}-run/task.json" for name in FAMILIES])
    def test_a_run_says_what_it_needs(self, said, machine, file):
        assert needs_in(machine.folder / file) == [["parts", "lmkit-parts", "1.2"]]

    @pytest.mark.parametrize("name", ALL)
    def test_so_does_a_bundle_and_names_its_parts(self, said, machine, name):
        manifest = machine.folder / name / "lmkit.json"
        task = json.loads(manifest.read_text("utf-8"))["task"]

        assert needs_in(manifest) == [["parts", "lmkit-parts", "1.2"]]
        assert task["loss"]["type"] == "parts:Focal"


def needs_in(file):
    entries = json.loads(file.read_text("utf-8"))["plugins"]
    return [[entry["plugin"], entry["distribution"], entry["version"]] for entry in entries]


class TestOnAnotherMachine:
    def test_there_is_no_torch_and_nothing_of_the_checkout(self, said, machine):
        script = (
            "import importlib.util, lmkit, lmkit_parts\n"
            "print(importlib.util.find_spec('torch'), lmkit.__file__, lmkit_parts.__file__)"
        )
        torch, *files = machine.run(script).stdout.split()

        assert torch == "None"
        assert all(Path(file).is_relative_to(machine.folder) for file in files)

    @pytest.mark.parametrize("name", ALL)
    def test_a_bundle_answers_as_it_did(self, said, machine, name):
        assert values(machine, name) == (said[name]["value"], "1 answers in answers.jsonl\n")

    def test_its_metric_measures(self, said, machine):
        done = machine.lmkit("evaluate", "parts-answers", "--data", "data.jsonl", "--json")

        found = json.loads(done.stdout)
        assert found["shared_lines"] == said["parts-answers"]["bundle"]["shared_lines"]

    def test_its_command_is_a_verb(self, said, machine):
        assert machine.lmkit("parts-count", "data.jsonl").stdout == "6\n"

    def test_verify_says_that_all_is_as_it_was(self, said, machine):
        done = machine.lmkit("verify", "parts-gaps", "--json")

        assert json.loads(done.stdout)["checks"]["plugins"] == "made with lmkit-parts 1.2"

    @pytest.mark.parametrize(
        ("name", "line"),
        [
            ("parts-gaps", "pip install lmkit-tasks 'lmkit-parts==1.2'"),
            ("parts-plain", "pip install lmkit-tasks"),
        ],
    )
    def test_its_card_says_what_to_install_to_be_answered(self, said, machine, name, line):
        assert f"`{line}`" in (machine.folder / name / "README.md").read_text("utf-8")


@pytest.mark.usefixtures("_without")
class TestWithoutIt:
    @pytest.mark.parametrize(
        "line",
        [
            "verify parts-titles",
            "generate parts-gaps --set text=[MASK]",
            "evaluate parts-titles --data data.jsonl",
            "export parts-titles-run --output again",
            "show parts-titles-run/task.json",
        ],
    )
    def test_every_verb_says_it(self, machine, line):
        done = machine.lmkit(*line.split())

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.endswith("; pip install 'lmkit-parts==1.2'\n")
        assert done.stderr.count("\n") == 1

    def test_what_only_training_asked_is_not_missed(self, said, machine):
        assert values(machine, "parts-plain")[0] == said["parts-plain"]["value"]
        assert machine.lmkit("verify", "parts-plain").returncode == 0

    def test_until_it_is_asked(self, machine):
        done = machine.lmkit("evaluate", "parts-plain", "--data", "data.jsonl")

        assert done.stderr == (
            "error: the bundle has the metric parts:SharedLines, and no installed plugin offers it; "
            "pip install 'lmkit-parts==1.2'\n"
        )

    def test_the_line_that_is_said_mends_it(self, said, machine):  # the last here
        found, told = values(machine, "parts-answers")

        assert found is None
        assert told == (
            "error: the bundle's task needs parts:Facts, parts:Forgetful, parts:Lines, and no "
            "installed plugin offers it; pip install 'lmkit-parts==1.2'\n"
        )
        machine.type(re.search("pip install .*", told).group())
        assert values(machine, "parts-answers")[0] == said["parts-answers"]["value"]


@pytest.mark.usefixtures("_newer")
class TestWithAnotherVersion:
    def test_both_versions_are_said_and_it_answers(self, said, machine):
        found, told = values(machine, "parts-answers")

        assert found == said["parts-answers"]["value"]
        assert told.splitlines()[0] == (
            "warning: the bundle was made with lmkit-parts 1.2, and lmkit-parts 1.3 is installed, so "
            "its answers may differ; pip install 'lmkit-parts==1.2' for what it was"
        )

    def test_that_lacks_a_class_is_not_it(self, said, machine):
        found, told = values(machine, "parts-gaps")

        assert found is None
        assert told == (
            "error: the bundle's task needs parts:Longest, and lmkit-parts 1.3, which is installed, "
            "does not offer it; pip install 'lmkit-parts==1.2'\n"
        )
