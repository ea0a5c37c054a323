"""Transform: functions of the user's own that prepare records before a task reads them.

They run where records come with their answers: in `train`, `evaluate` and `encode`. A model that
answers is asked with records as they come.

JSON names such a function `package.module:function`, and it is read back only from a package of an
installed plugin; nothing else is imported. A function without such a name can train: the run keeps
a `Lost` in its place, and says so when the function is needed again.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import attrs

from lmkit.errors import PluginError, RecordError, SerialError, TaskError
from lmkit.formatting import Record
from lmkit.records import OnBadRow, Row, gather, where_of
from lmkit.validators import TEXT, Check
from lmkit.values import value

T = TypeVar("T")

_FUNCTION = Check("a function of a record", callable)


class RecordFunction(Protocol):
    """A function that is given a record of its own, as a dictionary."""

    def __call__(self, record: dict[str, Any], /) -> Any:
        """Return a mapping, for `Map`, or whether to keep the record, for `Where`."""


@runtime_checkable
class Transform(Protocol):
    """What prepares a record before its task reads it."""

    def apply(self, row: Row) -> Row | None:
        """Return the record's new form, or None to leave it out; raise `RecordError`."""


@value
class Map:
    """Each record becomes what a function returns for it.

    Attributes:
        function: given a record as a dictionary, returns the new one.

    >>> def shout(record):
    ...     return {**record, "prompt": record["prompt"].upper()}
    >>> Map(shout).apply(Row({"prompt": "hi"}, "a.jsonl:1"))
    {'prompt': 'HI'}
    """

    function: RecordFunction = attrs.field(validator=_FUNCTION)

    def __str__(self) -> str:
        return f"map({name_of_function(self.function)})"

    def apply(self, row: Row) -> Row | None:
        """Return what the function makes of a record, at the record's place."""
        found = _called(self, self.function, row)
        if not isinstance(found, Mapping):
            kind = "None" if found is None else f"a {type(found).__name__}"
            raise RecordError(row.where, f"{self} returned {kind}, expected a record")
        return Row(found, row.where)


@value
class Where:
    """Records are kept for which a function returns true.

    Attributes:
        function: given a record as a dictionary, says whether to keep it.
    """

    function: RecordFunction = attrs.field(validator=_FUNCTION)

    def __str__(self) -> str:
        return f"where({name_of_function(self.function)})"

    def apply(self, row: Row) -> Row | None:
        """Return the record itself, or None."""
        return row if _called(self, lambda record: bool(self.function(record)), row) else None


@value
class Lost:
    """Stands where a transform could not be written down.

    Attributes:
        what: the transform, in words.
        reason: why it has no name.
    """

    what: str = attrs.field(validator=TEXT)
    reason: str = attrs.field(validator=TEXT)

    def __str__(self) -> str:
        return self.what

    def apply(self, row: Row) -> Row | None:
        """Refuse: what the function did is not known."""
        raise TaskError(
            f"the task prepares its records with {self.what}, which was not written down: "
            f"{self.reason}; give the task itself with task= (--task FILE.py:NAME)"
        )


def transformed(
    transforms: Iterable[Transform],
    records: Iterable[Record],
    *,
    name: str,
    on_bad_row: OnBadRow | None = None,
) -> list[Row]:
    """Return records as transforms leave them, each with its place.

    Args:
        transforms: applied one after another, each to all records.
        records: rows of the data.
        name: what to call the data in a message.
        on_bad_row: what is told of each record on which a function fails, which is then left out;
            without it they are gathered and raised together.
    Raises:
        RecordError: a function fails on a record, or nothing is left.
        RecordErrors: it fails on several; up to ten are gathered.
    """
    rows = [_row(record, index) for index, record in enumerate(records)]
    for transform in transforms:
        rows = gather(_applied(transform, rows), on_bad_row=on_bad_row)
        if not rows:
            raise RecordError(name, f"{transform} leaves out every record")
    return rows


def transformed_row(
    transforms: Sequence[Transform], row: Row, left: list[int] | None = None
) -> Row | None:
    """Return one record as transforms leave it, or None where one of them leaves it out.

    Args:
        transforms: applied one after another.
        row: the record.
        left: how many records each transform has left over so far, which is added to.
    Raises:
        RecordError: a function fails on it.
    """
    for index, transform in enumerate(transforms):
        found = transform.apply(row)
        if found is None:
            return None
        row = found
        if left is not None:
            left[index] += 1
    return row


def recorded(transforms: Iterable[Transform]) -> tuple[Transform, ...]:
    """Return transforms as a run can write them down: those without a name are `Lost`."""
    return tuple(
        Lost(str(transform), reason) if (reason := unnamed(transform)) else transform
        for transform in transforms
    )


def unnamed(transform: Transform) -> str | None:
    """Return why JSON has no name for a transform, or None if it has."""
    if isinstance(transform, Lost):
        return transform.reason
    if not isinstance(transform, (Map, Where)):
        return None
    try:
        path_of(transform.function)
    except SerialError as error:
        return str(error)
    return None


def check_named(name: str, transforms: Iterable[Transform]) -> None:
    """Refuse to write a task into a bundle if one of its transforms has no name there.

    Raises:
        SerialError: the text says which, why, and what to do.
    """
    for transform in transforms:
        if reason := unnamed(transform):
            raise SerialError(
                f"task '{name}': its transform {transform} cannot become JSON: {reason}. Define the "
                "function in the module of an installed plugin; or leave it out, since a bundle "
                "answers records as they come, with task=task.evolve(transforms=()) or the name of "
                "a task without it (--task)"
            )


def path_of(function: Any) -> str:
    """Return the name by which JSON knows a function, `package.module:function`.

    Raises:
        SerialError: it has none; the text says why.
    """
    called = name_of_function(function)
    module = getattr(function, "__module__", None)
    if not isinstance(function, types.FunctionType):
        raise SerialError(f"it is a {type(function).__name__}, not a function with a name")
    if function.__name__ == "<lambda>":
        raise SerialError("a lambda has no name")
    if function.__qualname__ != function.__name__:
        raise SerialError(f"'{called}' is not defined at the level of its module")
    if module == "__main__" or module is None:
        raise SerialError(f"'{called}' is defined in a script, which another process does not have")
    if _plugin_of(module) is None:
        raise SerialError(f"'{called}' is defined in '{module}', which is of no installed plugin")
    if getattr(sys.modules.get(module), called, None) is not function:
        raise SerialError(f"'{module}' has another '{called}' than this one")
    return f"{module}:{called}"


def function_at(path: Any) -> RecordFunction:
    """Return the function that JSON names; only packages of installed plugins are looked into.

    Raises:
        SerialError: this is not the name of a function, or there is none.
        PluginError: no installed plugin has such a package.
    """
    module, colon, name = path.partition(":") if isinstance(path, str) else ("", "", "")
    if not (colon and name.isidentifier() and all(map(str.isidentifier, module.split(".")))):
        raise SerialError(f"expected a function as 'package.module:function', found {path!r}")
    if _plugin_of(module) is None or module.endswith("__main__"):  # which runs a program
        raise PluginError(
            f"the function '{path}' is of no installed plugin; run 'lmkit plugins' to see what is"
        )
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # a module may raise anything while it is imported
        raise PluginError(f"'{module}' cannot be imported: {error}") from error
    if not isinstance(found, types.FunctionType) or found.__module__ != module:
        raise SerialError(f"'{module}' defines no function '{name}'")
    return found


def plugins_of(transforms: Iterable[Transform]) -> list[str]:
    """Return the names of the plugins that transforms' functions come from."""
    functions = [t.function for t in transforms if isinstance(t, (Map, Where))]
    found = (_plugin_of(getattr(function, "__module__", None) or "") for function in functions)
    return sorted({name for name in found if name is not None})


def name_of_function(function: Any) -> str:
    """Return how to call a function in a message."""
    return str(getattr(function, "__qualname__", type(function).__name__))


def _plugin_of(module: str) -> str | None:
    """Return the plugin in whose package a module is, or None."""
    from lmkit.plugins import installed

    for plugin in installed().plugins:
        package = plugin.package
        if package and plugin.error is None and f"{module}.".startswith(f"{package}."):
            return plugin.name
    return None


def _called(transform: Transform, function: Callable[[dict[str, Any]], T], row: Row) -> T:
    """Call a function of the user's with a record that it may change."""
    try:
        return function(dict(row))
    except Exception as error:  # the user's own code
        said = f"{type(error).__name__}: {error}"
        raise RecordError(row.where, f"{transform} fails: {said}") from error


def _applied(transform: Transform, rows: Iterable[Row]) -> Iterator[Row | RecordError]:
    for row in rows:
        try:
            found = transform.apply(row)
        except RecordError as error:
            yield error
        else:
            if found is not None:
                yield found


def _row(record: Record, index: int) -> Row:
    if not isinstance(record, Mapping):
        kind = type(record).__name__
        raise RecordError(f"record {index}", f"a record is a mapping, not a {kind}")
    return Row(record, where_of(record, index))
