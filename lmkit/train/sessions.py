"""Sessions: when, by which command, on which machine and how far a run was trained.

A run has several if it was interrupted and resumed. What they say goes into `run.json`, and with a
session's end, whatever ends it, the run's report is written.
"""

from __future__ import annotations

import contextlib
import enum
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from lmkit.adapters import Lora, PromptTuning
from lmkit.chat.rendering import now
from lmkit.files import write_atomically
from lmkit.mixing import Mixture
from lmkit.saving.jsonform import dump
from lmkit.scratch import Scratch
from lmkit.task import Task
from lmkit.train.arguments import DEFAULTS
from lmkit.train.extra import torch
from lmkit.train.folder import RUN_FILE, read_about

_TYPED: ContextVar[str | None] = ContextVar("typed", default=None)
# Arguments that decide what is learned, whether they were set or not.
DECISIVE = (
    "learning_rate",
    "lr_scheduler_type",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "train_sampling_strategy",
    "num_train_epochs",
    "max_steps",
    "optim",
    "weight_decay",
    "max_grad_norm",
    "seed",
)
HIDDEN = "..."  # stands for a secret, and for what a call was given that has no short form


@contextlib.contextmanager
def typed(words: Sequence[str] | None) -> Iterator[None]:
    """Let runs that begin here say that this was typed; None where nothing was."""
    token = _TYPED.set(None if words is None else shlex.join(["lmkit", *map(_public, words)]))
    try:
        yield
    finally:
        _TYPED.reset(token)


def command(what: Any, **given: Any) -> str:
    """Return what was typed, or else the call of `train`, as it could be made again.

    Args:
        what: the task.
        given: the arguments; those that are None are left out.
    """
    shown = [f"{name}={_shown(name, one)}" for name, one in given.items() if one is not None]
    words = [_shown("task", what), *shown]
    return _TYPED.get() or f"lk.train({', '.join(words)})"


def without_secrets(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return training arguments as text, a hub's token hidden."""
    return {
        name: HIDDEN if _is_secret(name) else str(content)
        for name, content in sorted(arguments.items())
    }


def machine(device: Any) -> dict[str, str]:
    """Return what a run was trained on: the system, and the device that computed."""
    name = torch().cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"system": f"{platform.system()} {platform.machine()}", "device": name}


def settings(arguments: Any, given: Mapping[str, Any]) -> dict[str, str]:
    """Return the training arguments that decide what is learned, and those that are not the default.

    Args:
        arguments: transformers' TrainingArguments.
        given: what it was made with.
    """
    import dataclasses

    defaults = {field.name: field.default for field in dataclasses.fields(arguments)}
    others = sorted(name for name, one in given.items() if one != defaults[name])
    names = dict.fromkeys([*DECISIVE, *others])
    return {
        name: HIDDEN if _is_secret(name) else str(_plain(getattr(arguments, name)))
        for name in names
        if name not in DEFAULTS or given[name] != DEFAULTS[name]
    }


@contextlib.contextmanager
def session(
    folder: Path, about: dict[str, Any], trainer: Any, command: str
) -> Iterator[dict[str, Any]]:
    """Write a run's account before a training and after it, also where that is interrupted.

    Args:
        folder: the run's.
        about: what `run.json` says; what its training adds to it is written at the end.
        trainer: transformers' Trainer.
        command: what began the training.
    """
    from lmkit.train.reporting.report import write_or_warn

    # Those of a run that is begun anew in its old folder, before its first checkpoint, count too.
    earlier = read_about(folder).get("sessions", [])
    own = {"command": command, "started": now()}
    about["sessions"] = [*earlier, own]
    write_atomically(folder / RUN_FILE, dump(about))
    try:
        yield about
    finally:
        state = trainer.state
        own |= {"ended": now(), "step": state.global_step, "steps": state.max_steps}
        if trainer.args.load_best_model_at_end and state.best_global_step:
            own["kept"] = state.best_global_step
        write_atomically(folder / RUN_FILE, dump(about))
        write_or_warn(folder)


def _public(word: str) -> str:
    name, equals, _ = word.partition("=")
    return f"{name}={HIDDEN}" if equals and _is_secret(name) else word


def _plain(content: Any) -> Any:
    return content.value if isinstance(content, enum.Enum) else content


def _is_secret(name: str) -> bool:
    return name.strip().endswith("_token")


def _shown(name: str, content: Any) -> str:
    if _is_secret(name):
        return repr(HIDDEN)
    if isinstance(content, (str, bool, int, float)):
        return repr(content)
    if isinstance(content, Path):
        return repr(str(content))
    if isinstance(content, Task):
        return repr(content.name)
    if isinstance(content, Mapping):
        inner = (f"{_shown('', key)}: {_shown(str(key), part)}" for key, part in content.items())
        return "{" + ", ".join(inner) + "}"
    if isinstance(content, (Scratch, Lora, PromptTuning)):
        return repr(str(content))
    return f"lk.{content!r}" if isinstance(content, Mixture) else HIDDEN  # rows, modules
