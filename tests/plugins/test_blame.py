"""Whose bug it is, when a plugin's own code fails while it is used."""

from plugins.distributions import install, lmkit

FAILING = """
import click
import lmkit as lk

@click.command("fail")
def fail():
    {}["key"]

@click.command("refuse")
def refuse():
    raise lk.LmkitError("no such syllable")

@lk.hookimpl
def lmkit_commands():
    return [fail, refuse]
"""


def test_an_error_in_a_plugins_verb_says_which_distribution_it_came_from(tmp_path):
    install(tmp_path, "odd", FAILING)

    done = lmkit("fail", folder=tmp_path)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "KeyError: 'key'",
        f"raised in the plugin 'odd' (lmkit-odd 1.0), {tmp_path / 'lmkit_odd.py'}",
    ]


def test_what_a_plugin_refuses_on_purpose_is_one_line_as_lmkits_own(tmp_path):
    install(tmp_path, "odd", FAILING)

    done = lmkit("refuse", folder=tmp_path)

    assert (done.returncode, done.stderr) == (1, "error: no such syllable\n")
