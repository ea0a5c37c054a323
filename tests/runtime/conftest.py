"""Bundles made by hand in a second; nothing here needs torch."""

import shutil

import pytest

import lmkit as lk

from .toybundle import toy_model, toy_tokenizer, write_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """Return a bundle's folder; tests only read it."""
    return write_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture
def copied(bundle, tmp_path):
    """Return a copy of the bundle to tamper with."""
    return shutil.copytree(bundle, tmp_path / "bundle")


@pytest.fixture(scope="session")
def ask(bundle):
    return lk.load(bundle, threads=1)


@pytest.fixture(scope="session")
def toy():
    return toy_model(toy_tokenizer().vocab_size)


@pytest.fixture
def saying(tmp_path):
    """Return a function that makes a model which answers `RECORD` with a given text."""

    def saying(text, **options):
        return lk.load(write_bundle(tmp_path / "saying", says=text, **options), threads=1)

    return saying
