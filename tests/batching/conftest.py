"""Bundles made by hand in a second, each behind an engine of its own."""

from collections.abc import Iterator

import pytest
from runtime.toybundle import write_bundle

import lmkit as lk
from lmkit.batching import Engine


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """Return a bundle's folder; tests only read it."""
    return write_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture(scope="session")
def alone(bundle):
    """Return the model that answers one call after another."""
    return lk.load(bundle, threads=1)


@pytest.fixture
def engine(alone) -> Iterator[Engine]:
    with Engine(alone) as engine:
        yield engine
