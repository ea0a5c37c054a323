"""What `lmkit new` writes, installed with pip and used: run by `tox -e plugins`.

Collected on demand only, as its name says nothing to pytest: it installs each plugin into the
environment it runs in, as the next three commands say, and takes it out again.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig

import pytest

SCRIPTS = sysconfig.get_path("scripts")
ALL = "formatter,collator,decoder,loss,metric,command"


def shell(command, cwd):
    """Run a line as a shell would, where this environment is active; return what it prints."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LMKIT_")}
    environ |= {"PATH": os.pathsep.join([SCRIPTS, environ["PATH"]]), "NO_COLOR": "1"}
    done = subprocess.run(
        command,
        shell=True,
        cwd=cwd,
        env=environ | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(
    scope="module",
    params=["--family causal", f"--family labels --with {ALL}"],
    ids=["bare", "full"],
)
def made(request, tmp_path_factory):
    """Return a new plugin's folder, and what each of the next commands said."""
    place = tmp_path_factory.mktemp("desk")
    facts = json.loads(shell(f"lmkit new notes {request.param} --json", place))
    folder = place / facts["folder"]
    first, *others = facts["next"]
    try:
        said = [shell(first, place), *(shell(command, folder) for command in others)]
        yield folder, said
    finally:
        subprocess.run(
            [sys.executable, "-m", "pip", "uninstall", "--yes", "lmkit-notes"], check=True
        )


def test_it_is_shown_and_its_tests_pass_at_once(made):
    _, (_, shown, tested) = made

    assert '"name": "notes"' in shown
    assert re.search(r"\d passed", tested)
    assert "failed" not in tested


def test_lmkit_lists_it_as_a_distribution(made):
    folder, _ = made
    rows = json.loads(shell("lmkit plugins --json", folder))["plugins"]
    [row] = [row for row in rows if row["name"] == "notes"]

    assert (row["distribution"], row["version"]) == ("lmkit-notes", "0.1.0")
    assert row["error"] is None


def test_the_readmes_commands_train_export_and_answer(made):
    folder, _ = made
    blocks = re.findall(
        r"^```sh\n(.*?)^```", (folder / "README.md").read_text("utf-8"), re.M | re.S
    )
    commands = blocks[-1].replace("\\\n", " ").splitlines()
    assert [shlex.split(line)[1] for line in commands] == ["train", "export", "generate"]

    said = [shell(line, folder) for line in commands]

    assert said[-1].splitlines()[0] in ("Shopping list", "complaint")  # a sample, learned by heart


def test_a_wheel_of_it_holds_the_module_and_its_licence(made):
    folder, _ = made
    shell("python -m pip wheel --no-deps --wheel-dir dist .", folder)
    [wheel] = (folder / "dist").glob("lmkit_notes-0.1.0-*.whl")
    listed = shell(f"python -m zipfile -l {wheel}", folder)

    assert "lmkit_notes.py" in listed
    assert "licenses/LICENSE" in listed
    assert "tests/" not in listed
