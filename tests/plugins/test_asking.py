"""A plugin that asks for tasks while it is being loaded itself, such as to vary a built-in one."""

import json

from plugins.distributions import install, lmkit

VARIANT = """
import lmkit as lk

@lk.hookimpl
def lmkit_tasks():
    return [lk.get_task("qa").evolve(name="{name}")]
"""
AT_IMPORT = """
import lmkit as lk

MINE = lk.get_task("{of}").evolve(name="{name}")

@lk.hookimpl
def lmkit_tasks():
    return [MINE]
"""


def names(done):
    return {task["name"] for task in json.loads(done.stdout)}


def test_a_built_in_task_can_be_varied_in_the_hook_or_at_import(tmp_path):
    install(tmp_path, "one", VARIANT.format(name="my-qa"))
    install(tmp_path, "two", AT_IMPORT.format(of="chat", name="my-chat"))

    done = lmkit("tasks", "--json", folder=tmp_path)

    assert names(done) >= {"qa", "my-qa", "chat", "my-chat"}
    assert done.stderr == ""


def test_a_task_of_a_plugin_that_is_loaded_later_is_not_known_yet_and_said_so_once(tmp_path):
    install(tmp_path, "a", AT_IMPORT.format(of="my-qa", name="mine"))
    install(tmp_path, "b", VARIANT.format(name="my-qa"))

    done = lmkit("tasks", "--json", folder=tmp_path)

    assert "my-qa" in names(done)
    assert done.stderr.count("UnknownTask: no task named 'my-qa'") == 1
