"""A transform of records."""

from __future__ import annotations

from typing import Any


def tidy(record: dict[str, Any]) -> dict[str, Any]:
    """Strip the answer."""
    return {**record, "answer": str(record["answer"]).strip()}
