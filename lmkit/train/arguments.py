"""The training arguments: transformers' own, with what lmkit prefers and what it keeps for itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmkit.errors import LmkitError, UnknownOption
from lmkit.train.extra import transformers

# What lmkit prefers where the user says nothing; any of it can be set like any other argument.
DEFAULTS: dict[str, Any] = {
    "report_to": "none",
    "logging_steps": 10,
    "logging_first_step": True,
    "save_strategy": "epoch",
    "save_total_limit": 2,
}
# These belong to lmkit; each with what a user who sets it should know.
RESERVED = {
    "output_dir": "it is output= (--output)",
    "resume_from_checkpoint": "it is resume= (--resume)",
    "remove_unused_columns": "the labels would be lost on their way",
    "disable_tqdm": "the bar is lmkit's own, and hides where there is no terminal",
}


def checked_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a user set, over lmkit's own defaults.

    Raises:
        UnknownOption: TrainingArguments has no such name; near names are listed.
        LmkitError: it belongs to lmkit, or is no such number or truth value.
    """
    defaults = {field.name: field.default for field in _training_fields() if field.init}
    for name, given in arguments.items():
        if name in RESERVED:
            raise LmkitError(f"'{name}' cannot be set: {RESERVED[name]}")
        if name not in defaults:
            known = [
                *defaults,
                "eval_data",
                "eval_fraction",
                "sample",
                "tokenizer",
                "pad",
                "adapter",
                "resume",
            ]
            raise UnknownOption("train", name, known)
        default = defaults[name]
        if isinstance(default, bool) and not isinstance(given, bool):
            raise LmkitError(f"{name} is {given!r}; expected true or false")
        if type(default) in (int, float) and type(given) not in (int, float):
            raise LmkitError(f"{name} is {given!r}; expected a number, such as {default}")
    return {**DEFAULTS, **arguments}


def _training_fields() -> Any:
    import dataclasses

    return dataclasses.fields(transformers().TrainingArguments)
