"""A third-party plugin as a stranger meets it: wheels, a shell, and the README's commands.

`tox -e plugins` runs this file by its name, in an environment that has lmkit from its wheel. A
plain `pytest` does not collect it, because it installs lmkit-haiku into the environment it runs in,
and takes it out again.
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

CHECKOUT = Path(__file__).parents[2]
EXAMPLE = CHECKOUT / "examples" / "lmkit-haiku"
LMKIT = Path(sysconfig.get_path("scripts")) / "lmkit"


def pip(*args):
    subprocess.run([sys.executable, "-m", "pip", *map(str, args)], check=True)


def call(*command, cwd):
    """Run a command as a shell would, away from the checkout; return what came of it."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LMKIT_")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environ | {"PYTHONIOENCODING": "utf-8", "NO_COLOR": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def readme_commands():
    """Return the README's commands, each split into words."""
    [block] = re.findall(
        r"^```sh\n(.*?)^```", (EXAMPLE / "README.md").read_text("utf-8"), re.M | re.S
    )
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    pip("wheel", "--no-deps", "--wheel-dir", folder, EXAMPLE)
    [wheel] = folder.glob("lmkit_haiku-*.whl")
    return wheel


@pytest.fixture(scope="module")
def _installed(wheel):
    """Install lmkit-haiku; the lmkit that is here must be the one that it depends on."""
    pip("uninstall", "--yes", "lmkit-haiku")  # what an interrupted run may have left
    pip("install", "--no-index", wheel)
    yield
    pip("uninstall", "--yes", "lmkit-haiku")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, _installed):
    """Return a folder with the poems and nothing else: the module must come from its wheel."""
    folder = tmp_path_factory.mktemp("stranger")
    shutil.copy(EXAMPLE / "haiku.jsonl", folder)
    return folder


@pytest.fixture(scope="module")
def said(folder):
    """Return what each of the README's commands said, keyed by the command."""
    said = {}
    for program, *args in readme_commands():
        assert program == "lmkit"
        done = call(LMKIT, *args, cwd=folder)
        assert done.returncode == 0, f"lmkit {shlex.join(args)}\n{done.stdout}{done.stderr}"
        said[" ".join(args)] = done.stdout
    return said


@pytest.fixture
def _uninstalled(said, wheel):
    pip("uninstall", "--yes", "lmkit-haiku")
    yield
    pip("install", "--no-index", wheel)


def test_lmkit_itself_is_the_wheels_not_the_checkouts(folder):
    done = call(sys.executable, "-c", "import lmkit; print(lmkit.__file__)", cwd=folder)

    assert not Path(done.stdout.strip()).is_relative_to(CHECKOUT / "lmkit")


def test_lmkit_tells_type_checkers_that_it_is_typed(folder):
    asks = "from importlib.resources import files; print((files('lmkit') / 'py.typed').is_file())"

    assert call(sys.executable, "-c", asks, cwd=folder).stdout.strip() == "True"


def test_tasks_lists_it_with_its_distribution(said):
    [line] = [line for line in said["tasks"].splitlines() if line.startswith("haiku ")]

    assert "lmkit-haiku 0.1.0" in line
    assert "subject, haiku" in line


def test_plugins_lists_all_that_it_offers(said):
    [line] = [line for line in said["plugins"].splitlines() if line.startswith("haiku ")]

    assert line.split()[1:3] == ["lmkit-haiku", "0.1.0"]
    assert "task haiku; verb haiku-lines; part HaikuDecoder" in line


def test_show_has_its_decoder_and_reads_the_poem_with_it(said):
    shown = said["show haiku --data haiku.jsonl"]

    assert '"type": "haiku:HaikuDecoder"' in shown
    assert "['파도가 오고', '발자국을 지우고', '다시 떠난다']" in shown


def test_the_bundle_writes_down_the_distribution_that_it_needs(said, folder):
    manifest = json.loads((folder / "bundle" / "lmkit.json").read_text("utf-8"))

    assert manifest["plugins"] == [
        {"plugin": "haiku", "distribution": "lmkit-haiku", "version": "0.1.0"}
    ]


def test_a_bundle_answers_with_the_plugins_decoder_and_without_torch(said, folder):
    script = (
        "import lmkit, sys\n"
        "answer = lmkit.load('bundle')({'subject': '바다'})\n"
        "assert isinstance(answer.value, list) and len(answer.value) <= 3, answer\n"
        "assert 'torch' not in sys.modules\n"
    )

    assert call(sys.executable, "-c", script, cwd=folder).stderr == ""


def test_its_command_counts_the_lines_of_every_answer(said, folder):
    poems = (folder / "haiku.jsonl").read_text("utf-8").splitlines()
    lines = said["haiku-lines answers.jsonl"].splitlines()

    assert [line.partition("\t")[2] for line in lines] == [json.loads(p)["subject"] for p in poems]


@pytest.mark.usefixtures("_uninstalled")
@pytest.mark.parametrize("verb", ["generate bundle --set subject=바다", "verify bundle"])
def test_without_the_plugin_a_bundle_says_what_to_install(folder, verb):
    done = call(LMKIT, *verb.split(), cwd=folder)

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: the bundle's task needs haiku:HaikuDecoder, and no installed plugin offers it; "
        "pip install 'lmkit-haiku==0.1.0'"
    ]


@pytest.mark.usefixtures("_uninstalled")
def test_without_the_plugin_so_does_a_run(folder):
    done = call(LMKIT, "evaluate", "run", "--data", "haiku.jsonl", cwd=folder)

    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "error: 'run/task.json' needs haiku:HaikuDecoder, and no installed plugin offers it; "
        "pip install 'lmkit-haiku==0.1.0'"
    ]


@pytest.mark.usefixtures("_uninstalled")
def test_without_the_plugin_its_task_is_gone(folder):
    done = call(LMKIT, "show", "haiku", cwd=folder)

    assert done.returncode == 1
    assert done.stderr.startswith("error: no task named 'haiku'")
