"""Which names bundles are served under."""

import pytest
from runtime.toybundle import write_bundle

from lmkit.errors import BundleError, DuplicateName, LmkitError, UnknownName
from lmkit.serve.models import Models


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return two folders with bundles of one task, `toy`."""
    folder = tmp_path_factory.mktemp("models")
    return [write_bundle(folder / name) for name in ("first", "second")]


@pytest.fixture
def opened():
    """Return a function that opens bundles, which are closed in the end."""
    found = []

    def opened(bundles):
        found.append(Models.open(bundles, threads=1, verify=False))
        return found[-1]

    yield opened
    for models in found:
        models.close()


def test_a_bundle_is_named_as_its_task_and_its_folder_is_an_alias(opened, folders):
    models = opened(folders[:1])

    assert [one.name for one in models] == ["toy"]
    assert models["first"] is models["toy"]


def test_two_of_one_task_are_named_as_their_folders(opened, folders):
    models = opened(folders)

    assert [one.name for one in models] == ["first", "second"]
    with pytest.raises(UnknownName, match="known: first, second"):
        models["toy"]


def test_a_name_that_was_typed_comes_first(opened, folders):
    models = opened([("quick", folders[0]), (None, folders[1])])

    assert [one.name for one in models] == ["quick", "toy"]
    assert models["first"].name == "quick"
    assert models["toy"].name == "toy"  # no alias of the other


def test_one_name_for_two_bundles_is_refused(opened, folders):
    with pytest.raises(DuplicateName, match="served as 'one'"):
        opened([("one", folders[0]), ("one", folders[1])])


def test_a_name_that_no_address_can_have_is_refused(opened, folders):
    with pytest.raises(LmkitError, match="'a/b' cannot stand in an address"):
        opened({"a/b": folders[0]})


def test_a_bundle_that_is_not_there_is_told(opened, folders, tmp_path):
    with pytest.raises(BundleError, match="there is no bundle"):
        opened([folders[0], tmp_path / "none"])
