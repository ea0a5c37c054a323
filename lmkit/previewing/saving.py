"""Save: a preview as JSON, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cattrs

from lmkit.errors import SerialError
from lmkit.files import write_atomically
from lmkit.previewing import Preview
from lmkit.saving.jsonform import dump

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


def document(previews: Sequence[Preview]) -> Any:
    """Return a task's preview as JSON; of a mixture's tasks a list."""
    found = [as_json(preview) for preview in previews]
    return found if len(found) > 1 else found[0]


def save(previews: Sequence[Preview], file: Path) -> None:
    """Write a task's preview, or those of a mixture's tasks, into a file."""
    write_atomically(file, dump(document(previews)))


def read(file: Path) -> list[Preview]:
    """Return the previews in a file.

    Raises:
        SerialError: there is none in it.
    """
    try:
        data = json.loads(file.read_text("utf-8"))
        return [from_json(one) for one in (data if isinstance(data, list) else [data])]
    except (OSError, json.JSONDecodeError) as error:
        raise SerialError(f"'{file}' is no preview: {error}") from error
