"""Save: a preview as JSON, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cattrs

from lmkit.errors import SerialError
from lmkit.files import write_atomically
from lmkit.jsonform import dump
from lmkit.previewing import Preview

PREVIEW_FILE = "preview.json"

_converter = cattrs.Converter()


def as_json(preview: Preview) -> dict[str, Any]:
    """Return a preview as JSON objects and lists."""
    data: dict[str, Any] = _converter.unstructure(preview)
    return data


def from_json(data: Mapping[str, Any]) -> Preview:
    """Return the preview that JSON describes.

    Raises:
        SerialError: it describes none.
    """
    try:
        return _converter.structure(data, Preview)
    except (cattrs.BaseValidationError, TypeError, KeyError) as error:
        raise SerialError(f"this is no preview: {error}") from error


def save(preview: Preview, file: Path) -> None:
    """Write a preview into a file."""
    write_atomically(file, dump(as_json(preview)))


def read(file: Path) -> Preview:
    """Return the preview in a file.

    Raises:
        SerialError: there is none in it.
    """
    try:
        return from_json(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise SerialError(f"'{file}' is no preview: {error}") from error
