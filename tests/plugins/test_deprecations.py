"""What a plugin uses that will be gone: its users see it in the list, its author in pytest."""

import json
import subprocess
import sys

from plugins.distributions import environment, install, lmkit

OLD = """
import lmkit as lk

IGNORE = lk.IGNORE

@lk.hookimpl
def lmkit_tasks():
    lk.Template
    return []
"""


def test_the_list_names_each_with_its_line_and_what_to_use(tmp_path):
    install(tmp_path, "old", OLD)

    done = lmkit("plugins", "--json", folder=tmp_path)

    [row] = [row for row in json.loads(done.stdout)["plugins"] if row["name"] == "old"]
    assert row["state"] == "ok"
    file = tmp_path / "lmkit_old.py"
    assert [told.partition(" is deprecated")[0] for told in row["deprecated"]] == [
        "lmkit.IGNORE",
        "lmkit.Template",
    ]
    assert row["deprecated"][0].endswith(f"use lmkit.encoding.IGNORE ({file}:4)")
    assert done.stderr == ""


def test_other_verbs_say_nothing_since_their_users_cannot_mend_it(tmp_path):
    install(tmp_path, "old", OLD)

    assert lmkit("tasks", folder=tmp_path).stderr == ""


def test_its_author_sees_it_where_warnings_are_shown(tmp_path):
    install(tmp_path, "old", OLD)
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", "import lmkit; lmkit.tasks()"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )

    assert f"{tmp_path / 'lmkit_old.py'}:4: LmkitDeprecationWarning: lmkit.IGNORE" in done.stderr
