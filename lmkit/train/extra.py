"""The heavy packages, imported when first needed; where they are absent, the error says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from lmkit.errors import MissingExtra


def torch() -> ModuleType:
    """Return torch; raise `MissingExtra` if it is not installed."""
    return _package("torch")


def transformers() -> ModuleType:
    """Return transformers; raise `MissingExtra` if it is not installed."""
    return _package("transformers")


def datasets() -> ModuleType:
    """Return datasets; raise `MissingExtra` if it is not installed."""
    return _package("datasets")


def peft() -> ModuleType:
    """Return peft; raise `MissingExtra` if it is not installed."""
    return _package("peft", "an adapter", "peft")


def _package(
    name: str, what: str = "training or running a model through torch", extra: str = "train"
) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise MissingExtra(what, extra, name) from error
