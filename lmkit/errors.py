"""Every error lmkit raises on purpose.

    LmkitError                  catch this: the user's input, files or plugins are at fault
    ├── RecordError             a data file or a row in it (carries `where`, such as "train.jsonl:17")
    │   ├── RecordErrors        several of them, gathered
    │   └── ConversationError   one that its chat template refuses (also a TemplateError)
    ├── FindingsError           data that teaches something wrong (carries `names`)
    ├── TemplateError           a template that cannot be read or rendered
    ├── TaskError               parts of a task that do not fit together
    ├── UnknownName             a lookup that missed (carries `name` and `known`)
    │   ├── UnknownTask
    │   └── UnknownOption       a misspelt keyword (also a TypeError)
    ├── DuplicateName           two distributions define one name
    ├── PluginError             a plugin that cannot be loaded or is missing
    ├── SerialError             a value that cannot become JSON, or JSON that is no value
    ├── TokenizerError          a tokenizer that is missing, unreadable or unfit
    ├── ModelError              a model that cannot be loaded or trained
    ├── OutputExists            a folder that is already there
    ├── ExportError             a model that cannot become a bundle
    │   ├── ParityError         the bundle would answer differently from torch
    │   └── QualityError        a precision loses more than was allowed (carries `increases`)
    ├── BundleError             a bundle that is damaged, foreign or from the future
    ├── ChainError              one link of a chain fails (carries `position` and `cause`)
    ├── PromptTooLong           a prompt that does not fit the context
    ├── Busy                    more requests than can wait (carries `retry_after`, in seconds)
    ├── DeadlineExceeded        an answer that was not whole when its time was over
    └── MissingExtra            a verb whose packages are not installed

The command line prints an `LmkitError` without a traceback and exits with 1. Anything else that
escapes is a bug in lmkit and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class LmkitError(Exception):
    """The root: something the user can mend."""

    def __reduce__(self) -> tuple[Any, ...]:  # what brings an error here from another process
        return _remade, (type(self), self.args, self.__dict__)


def _remade(kind: type[LmkitError], args: tuple[Any, ...], state: dict[str, Any]) -> LmkitError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class RecordError(LmkitError, ValueError):
    """A data file, or one row of it, is not what the task needs.

    Attributes:
        where: the place, such as `train.jsonl:17` or `train.jsonl:17 $.output`.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}" if where else problem)
        self.where = where
        self.problem = problem


class RecordErrors(RecordError):
    """Several bad rows, gathered so that one run shows them together.

    Attributes:
        errors: the rows' own errors, in file order.
    """

    def __init__(self, errors: Sequence[RecordError], *, more: bool = False) -> None:
        self.errors = tuple(errors)
        lines = [f"{len(self.errors)}{' or more' if more else ''} bad rows"]
        lines += [f"  {error}" for error in self.errors]
        super().__init__("", "\n".join(lines))


class FindingsError(LmkitError, ValueError):
    """Data teaches something wrong, so nothing was trained on it.

    Attributes:
        names: what was found, such as `eos-never-learned`.
    """

    def __init__(self, problem: str, names: Sequence[str]) -> None:
        super().__init__(problem)
        self.names = tuple(names)


class TemplateError(LmkitError, ValueError):
    """A template, ours or a chat template, cannot be read or rendered."""


class ConversationError(RecordError, TemplateError):
    """A chat template refuses one record's conversation, or writes an answer otherwise than asked."""


class TaskError(LmkitError, ValueError):
    """The parts of a task do not fit together."""


class UnknownName(LmkitError, LookupError):
    """A name that nobody defines.

    Attributes:
        name: what was asked for.
        known: what exists.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        self.name = name
        self.known = tuple(sorted(known))
        lines = [f"no {kind} named '{name}'"]
        close = near(name, self.known)
        if close:
            lines.append(f"  close to: {', '.join(close)}")
        if self.known and (len(self.known) <= 12 or not close):
            more = f" and {len(self.known) - 40} more" if len(self.known) > 40 else ""
            lines.append(f"  known: {', '.join(self.known[:40])}{more}")
        if hint:
            lines.append(f"  {hint}")
        super().__init__("\n".join(lines))


class UnknownTask(UnknownName):
    """No plugin defines the task."""

    def __init__(self, name: str, known: Iterable[str], *, missing: str = "") -> None:
        hint = missing or "run 'lmkit plugins' to see where tasks come from"
        super().__init__("task", name, known, hint=hint)


class UnknownOption(UnknownName, TypeError):
    """A keyword that the thing does not take.

    Attributes:
        owner: what was called.
    """

    def __init__(self, owner: str, name: str, known: Iterable[str]) -> None:
        self.owner = owner
        super().__init__(f"option of {owner}", name, known)


class DuplicateName(LmkitError, ValueError):
    """Two plugins define one name; `lmkit plugins` shows both."""


class PluginError(LmkitError):
    """A plugin cannot be loaded, or one that is needed is not installed."""


class SerialError(LmkitError, ValueError):
    """A value cannot become JSON, or JSON does not describe a value."""


class TokenizerError(LmkitError, ValueError):
    """A tokenizer is missing, unreadable, or unfit for the task."""


class ModelError(LmkitError, ValueError):
    """A model cannot be found, loaded, or used for the task's family."""


class OutputExists(LmkitError, FileExistsError):
    """The output is already there and was not to be replaced."""

    def __init__(self, path: object, *, remedy: str) -> None:
        super().__init__(f"'{path}' already exists; {remedy}")

    def __str__(self) -> str:  # OSError would print its arguments
        return str(self.args[0])


class ExportError(LmkitError):
    """A model cannot be exported."""


class ParityError(ExportError):
    """The exported graph answers differently from torch, so no bundle was written."""


class QualityError(ExportError):
    """A precision raises perplexity by more than was allowed, so no bundle was written.

    Attributes:
        increases: by how much each precision raises it, as a share of float32's.
    """

    def __init__(self, problem: str, increases: Mapping[str, float]) -> None:
        super().__init__(problem)
        self.increases = dict(increases)


class BundleError(LmkitError):
    """A bundle is damaged, is not a bundle, or needs something that is absent."""


class ChainError(LmkitError):
    """One link of a chain fails.

    Attributes:
        position: which link, from 0.
        cause: what it raised.
    """

    def __init__(self, link: str, position: int, cause: LmkitError) -> None:
        super().__init__(f"{link} fails with {type(cause).__name__}: {cause}")
        self.position = position
        self.cause = cause


class PromptTooLong(LmkitError, ValueError):
    """A prompt does not fit into the model's context.

    Attributes:
        prompt_tokens: the prompt's length in tokens; of one that is far too long, of its opening.
        context_length: the most tokens the model can hold.
        where: the record's place, as of a `RecordError`.
    """

    def __init__(
        self,
        prompt_tokens: int,
        context_length: int,
        *,
        answer_follows: bool = True,
        answer_tokens: int = 1,
        at_least: bool = False,
        where: str = "",
    ) -> None:
        needed = "one at least is" if answer_tokens == 1 else f"{answer_tokens} are"
        more = " or more" if at_least else ""
        room = f", of which {needed} for the answer" if answer_follows else ""
        self.problem = (
            f"the prompt has {prompt_tokens} tokens{more} and the model's context holds "
            f"{context_length}{room}; shorten the record"
        )
        super().__init__(f"{where}: {self.problem}" if where else self.problem)
        self.where = where
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length


class MissingExtra(LmkitError, ImportError):
    """A verb needs packages that the base install leaves out."""

    def __init__(self, what: str, extra: str, missing: str | None = None) -> None:
        lacking = f" ('{missing}' is not installed)" if missing else ""
        super().__init__(f"{what} needs more packages{lacking}: pip install 'lmkit-tasks[{extra}]'")
        self.extra = extra


class Busy(LmkitError):
    """There are more requests than can wait; another try in `retry_after` seconds may find room."""

    def __init__(self, problem: str, *, retry_after: float = 1.0) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


class DeadlineExceeded(LmkitError, TimeoutError):
    """An answer was not whole when its time was over."""


def near(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three of the `known` names that look like `name`, the closest first.

    >>> near("alpcaa", ["chat", "alpaca"])
    ['alpaca']
    """
    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
