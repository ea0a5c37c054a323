"""For plugin authors: what a task must survive, and small things to try it on.

    from lmkit.testing import check_task, toy_tokenizer

    def test_my_task():
        check_task(TASK, RECORDS)

`check_task` runs one promise after another, in the order of a record's way: what is read of it, what
is learned, what a model that learned it answers, and what its bundle answers. The rest are a tokenizer
to check by eye, tiny models and a few records of each family; the pytest plugin (`pytest_plugin`)
offers all of them as fixtures. Names load on first use, so nothing here is paid for before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmkit.testing.broken import PromiseBroken
    from lmkit.testing.checking import PROMISES, QUICK, check_task
    from lmkit.testing.models import tiny_model
    from lmkit.testing.report import Outcome, Report
    from lmkit.testing.samples import sample_record, sample_records
    from lmkit.testing.toys import small_tokenizers, toy_tokenizer

_HOMES = {
    "Outcome": "report",
    "PROMISES": "checking",
    "PromiseBroken": "broken",
    "QUICK": "checking",
    "Report": "report",
    "check_task": "checking",
    "sample_record": "samples",
    "sample_records": "samples",
    "small_tokenizers": "toys",
    "tiny_model": "models",
    "toy_tokenizer": "toys",
}

__all__ = [
    "PROMISES",
    "QUICK",
    "Outcome",
    "PromiseBroken",
    "Report",
    "check_task",
    "sample_record",
    "sample_records",
    "small_tokenizers",
    "tiny_model",
    "toy_tokenizer",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'lmkit.testing' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"lmkit.testing.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
