"""Fingerprints of code: what a function or a class does, as far as its text says.

A function of the user's is known by its byte code, its constants, and what it refers to: other
functions, modules that are not installed packages, and plain values. A class is known by its module's
text and plain values, and by the code of its methods, since a file may be another one by now than was
imported. What refers to anything else, such as a model, cannot be known, and says so; nor can what
reads files, the environment or the clock.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib
import re
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from lmkit.errors import LmkitError

MOST_FILES = 300  # of an installed package; a larger one is known by its version

_PLAIN = (str, bytes, int, float, complex, bool, type(None), Path)
# Names of what may give something else the next time.
_READING = {"environ", "environb", "getenv", "now", "open", "read_bytes", "read_text", "today"}
_READING |= {"urlopen", "utcnow"}


class Unknowable(LmkitError):
    """Code whose doing cannot be told from its text."""


def code_of(*things: Any) -> str:
    """Return the sha256 of what functions, classes and values are.

    Raises:
        Unknowable: one of them refers to something that has no text.
    """
    digest = hashlib.sha256()
    seen: set[int] = set()
    for thing in things:
        for word in _words(thing, seen):
            digest.update(word.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def own_code() -> str:
    """Return the sha256 of lmkit's modules, but for those that only use rows."""
    package = Path(__file__).parents[2]
    uses = {"cli", "demo", "export", "runtime"}
    parts = (
        path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in uses
    )
    return _files(sorted(parts))


def _files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _words(thing: Any, seen: set[int]) -> Iterator[str]:
    if isinstance(thing, _PLAIN):
        yield f"{type(thing).__name__}:{thing!r}"
        return
    if isinstance(thing, re.Pattern):
        yield f"pattern:{thing.pattern!r}:{thing.flags}"
        return
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, (list, tuple, set, frozenset, Mapping)):
        yield from _container(thing, seen)
    elif isinstance(thing, types.ModuleType):
        yield from _module(thing, seen)
    elif isinstance(thing, type):
        yield from _class(thing, seen)
    elif isinstance(thing, types.FunctionType):
        yield from _function(thing, seen)
    elif isinstance(thing, types.CodeType):
        yield from _code(thing, seen)
    elif isinstance(thing, functools.partial):
        yield from _container([thing.func, thing.args, thing.keywords], seen)
    elif isinstance(thing, types.MethodType):
        yield from _container([thing.__func__, thing.__self__], seen)
    elif isinstance(thing, (types.BuiltinFunctionType, types.MethodDescriptorType)):
        yield f"builtin:{thing.__qualname__}"
    elif attrs.has(type(thing)):
        yield from _words(type(thing), seen)
        for field in attrs.fields(type(thing)):
            yield field.name
            yield from _words(getattr(thing, field.name), seen)
    else:
        raise Unknowable(f"a {type(thing).__name__}")


def _container(parts: Any, seen: set[int]) -> Iterator[str]:
    yield f"{type(parts).__name__}:{len(parts)}"
    if isinstance(parts, Mapping):
        parts = [part for pair in parts.items() for part in pair]
    elif isinstance(parts, (set, frozenset)):
        parts = sorted(parts, key=repr)
    for part in parts:
        yield from _words(part, seen)


def _function(function: types.FunctionType, seen: set[int]) -> Iterator[str]:
    module = sys.modules.get(function.__module__ or "")
    if module is not None and _kind(module) != "own":
        yield f"function:{function.__module__}:{function.__qualname__}"
        yield from _module(module, seen)
        return
    _check_reading(function)
    yield from _code(function.__code__, seen)
    yield from _words(function.__defaults__, seen)
    yield from _words(function.__kwdefaults__, seen)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield from _named(name, cell.cell_contents, function, seen)
    for name in _imports(function.__code__):
        yield from _words(_imported(name, function), seen)
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            yield from _named(name, function.__globals__[name], function, seen)


def _check_reading(function: types.FunctionType) -> None:
    """Refuse a function that reads what may be something else the next time."""
    names = _names(function.__code__) & _READING
    if names:
        raise Unknowable(
            f"{function.__qualname__} refers to '{min(names)}', which may give something else next time"
        )


def _named(name: str, thing: Any, function: types.FunctionType, seen: set[int]) -> Iterator[str]:
    yield name
    try:
        yield from _words(thing, seen)
    except Unknowable as error:
        said = str(error)
        if " refers to " in said:
            raise
        raise Unknowable(f"{function.__qualname__} refers to '{name}', {said}") from error


def _imports(code: types.CodeType) -> Iterator[str]:
    """Yield the modules that code imports when it runs."""
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            yield step.argval
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _imports(part)


def _imported(name: str, function: types.FunctionType) -> types.ModuleType:
    package = (function.__globals__.get("__package__") or "").rstrip(".")
    for full in (f"{package}.{name}".strip("."), name):
        if full in sys.modules:
            return sys.modules[full]
    if name.partition(".")[0] in sys.stdlib_module_names:
        return importlib.import_module(name)
    raise Unknowable(f"{function.__qualname__} refers to '{name}', which it imports when it runs")


def _names(code: types.CodeType) -> set[str]:
    inner = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return {*code.co_names}.union(*map(_names, inner))


def _code(code: types.CodeType, seen: set[int]) -> Iterator[str]:
    yield code.co_code.hex()
    yield " ".join((*code.co_names, *code.co_varnames))
    for part in code.co_consts:
        yield from _words(part, seen) if part is not Ellipsis else ("...",)


def _class(cls: type, seen: set[int]) -> Iterator[str]:
    for base in cls.__mro__:
        yield f"class:{base.__module__}:{base.__qualname__}"
        module = sys.modules.get(base.__module__)
        if module is not None and _kind(module) == "known":
            continue
        top = base.__qualname__.partition(".")[0]
        if module is None or getattr(module, top, None) is None:
            raise Unknowable(f"the class {base.__qualname__}, which its module has not")
        if top == base.__qualname__ and getattr(module, top) is not base:
            raise Unknowable(f"the class {base.__qualname__}, in whose module's place is another")
        yield from _words(module, seen)
        yield from _values(base)
        for function in _methods(base):
            _check_reached(function, module, set())
            yield from _code(function.__code__, seen)


def _methods(cls: type) -> Iterator[types.FunctionType]:
    """Yield the functions of a class, those behind properties too; a class method makes instances."""
    for found in list(vars(cls).values()):
        for function in (
            found,
            getattr(found, "__func__", None) if isinstance(found, staticmethod) else None,
            getattr(found, "fget", None),
            getattr(found, "func", None),
        ):
            if isinstance(function, types.FunctionType):
                yield function


def _check_reached(
    function: types.FunctionType, module: types.ModuleType, seen: set[types.FunctionType]
) -> None:
    """Refuse a function that reads, or calls one of the same author's that does."""
    if function in seen:
        return
    seen.add(function)
    _check_reading(function)
    package = module.__name__.partition(".")[0]
    for name in _names(function.__code__):
        found = function.__globals__.get(name)
        home = _home(found)
        if isinstance(found, types.FunctionType) and home is not None:
            same = home.__name__.partition(".")[0] == package
            if same or _kind(home) == "own":
                _check_reached(found, home, seen)


def _values(owner: type | types.ModuleType) -> Iterator[str]:
    """Yield the plain values that a class or a module has, however they came there."""
    for name, found in sorted(vars(owner).items()):
        if not name.startswith("__") and _is_plain(found):
            yield f"{name}={found!r}"


def _is_plain(part: Any) -> bool:
    if isinstance(part, dict):
        return all(_is_plain(key) and _is_plain(found) for key, found in part.items())
    if isinstance(part, (list, tuple)):
        return all(map(_is_plain, part))
    return isinstance(part, _PLAIN)


def _module(module: types.ModuleType, seen: set[int]) -> Iterator[str]:
    """Describe a module: its name, and its text unless lmkit's or Python's version says enough."""
    kind = _kind(module)
    yield f"module:{module.__name__}"
    if kind == "installed":
        yield _package(module.__name__.partition(".")[0])
    if kind != "own":
        return
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():
        raise Unknowable(f"the module '{module.__name__}', which has no file")
    yield hashlib.sha256(Path(file).read_bytes()).hexdigest()
    yield from _values(module)
    for found in list(vars(module).values()):
        other = found if isinstance(found, types.ModuleType) else _home(found)
        if other is not None and _kind(other) != "known":
            yield from _words(other, seen)


def _home(found: Any) -> types.ModuleType | None:
    if not isinstance(found, (type, types.FunctionType)):
        return None
    return sys.modules.get(found.__module__ or "")


def _kind(module: types.ModuleType) -> str:
    """Say who wrote a module: `known` (Python or lmkit), `installed`, or the user's `own`."""
    top = module.__name__.partition(".")[0]
    if top == "__main__":
        return "own"
    if top in sys.stdlib_module_names or top == "lmkit":
        return "known"
    file = getattr(module, "__file__", None) or ""
    installed = {"site-packages", "dist-packages"} & set(Path(file).parts)
    return "installed" if installed or not file else "own"


@functools.lru_cache(maxsize=256)
def _package(name: str) -> str:
    """Return what an installed package is: its text, or of a large one its version."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if file is None:
        return str(getattr(module, "__version__", ""))
    path = Path(file)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    if len(files) > MOST_FILES:
        return str(getattr(module, "__version__", hashlib.sha256(path.read_bytes()).hexdigest()))
    return _files(files)
