"""Every older version of a file has a way to today's."""

import pytest

from lmkit.saving import manifest, schemas, taskfile
from lmkit.saving.schemas import Schema, advice


@pytest.mark.parametrize("form", [manifest.FORM, taskfile.SCHEMA], ids=["lmkit.json", "task.json"])
def test_no_version_is_left_without_a_step(form):
    """Raising `newest` without a step for what was newest fails here."""
    assert sorted(form.steps) == list(range(1, form.newest))


def test_steps_are_taken_one_after_another():
    form = Schema(3, {1: lambda c: {**c, "a": 1}, 2: lambda c: {**c, "b": c.get("a")}})

    assert form.upgraded({}, 1) == {"a": 1, "b": 1}
    assert form.upgraded({}, 2) == {"b": None}
    assert form.upgraded({}, 3) == {}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "wrong", [{}, {"precisions": []}, {"golden": 3, "precisions": {"fp32": 1}}]
)
def test_a_step_leaves_what_is_wrong_to_the_reader(version, wrong):
    manifest.FORM.upgraded(dict(wrong), version)


@pytest.mark.parametrize(
    ("writer", "later"),
    [("0.1.1", True), ("1.0", True), ("0.1.0", False), ("0.0.9", False), (None, False)],
)
def test_upgrading_is_advised_where_a_later_version_wrote_a_file(monkeypatch, writer, later):
    monkeypatch.setattr("lmkit.__version__", "0.1.0")

    assert ("pip install --upgrade lmkit-tasks" in advice(writer)) is later
    assert schemas.unchanged({"a": 1}) == {"a": 1}
