"""What prepared rows depend on, part by part, so that a miss can say which part is another one."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

import lmkit
from lmkit.chat.rendering import at_time, printed_dates
from lmkit.files import sha256_of
from lmkit.plugins import installed
from lmkit.saving.jsonform import dump, to_json
from lmkit.sources import Source
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer
from lmkit.train.extra import datasets
from lmkit.train.preparing.codeprint import Unknowable, code_of, own_code
from lmkit.transforms import Lost, Map, Where

SCHEMA = 1  # raised when the files of an entry change their form
NONE = "none"


def key_parts(task: Task, source: Source, tokenizer: Tokenizer, moment: str) -> dict[str, str]:
    """Return each thing that prepared rows depend on, as short text or a sha256.

    Args:
        task: as it is fitted to the model.
        source: the data.
        tokenizer: the model's.
        moment: the date for templates that print one.
    Raises:
        Unknowable: a part of the task is code whose text cannot be found; the text says which.
    """
    template = task.formatter.chat_template(tokenizer.dialect)
    with at_time(moment):
        dates = printed_dates(template or "")
    return {
        "lmkit": f"{lmkit.__version__} {own_code()}",
        "libraries": _libraries(),
        "plugins": ", ".join(sorted(_plugins(task))) or NONE,
        "formatter": _part(task.formatter),
        "chat template": NONE if template is None else _sha256(template),
        "date": ", ".join(dates) or NONE,
        "tokenizer": tokenizer.fingerprint,
        "collator": _part(task.collator),
        "decoder": _part(task.decoder),
        "transforms": _transforms(task),
        "data": content_of(source),
    }


def key_of(parts: Mapping[str, str]) -> str:
    """Return the name of an entry with these parts."""
    return _sha256(dump({"schema": SCHEMA, **parts}))[:40]


def content_of(source: Source) -> str:
    """Return the sha256 of a source's bytes, and of how they are read."""
    assert source.path is not None
    path = Path(source.path)
    if path.is_file():
        return _sha256(f"{path.suffix.lower()} {source.whole} {sha256_of(path)}")
    found = datasets().load_from_disk(str(path)) if path.is_dir() else None
    if found is None:
        found = datasets().load_dataset(source.path)
    parts = found.values() if isinstance(found, Mapping) else [found]
    files = [Path(file["filename"]) for part in parts for file in part.cache_files]
    texts = [getattr(part, "_fingerprint", "") for part in parts]
    return _sha256(" ".join([*texts, *map(sha256_of, files)]))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _libraries() -> str:
    names = ("tokenizers", "jinja2", "numpy")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    return ", ".join([f"Python {platform.python_version()}", *versions])


def _plugins(task: Task) -> Iterator[str]:
    """Yield the distributions, with their versions, of plugins that the task's classes are of."""
    for plugin in installed().plugins:
        package = plugin.package
        if package and any(f"{name}.".startswith(f"{package}.") for name in _modules(task)):
            yield plugin.source


def _modules(task: Task) -> Iterator[str]:
    for part in (task.formatter, task.collator, task.decoder):
        yield from (cls.__module__ for cls in type(part).__mro__)
    for transform in task.transforms:
        yield getattr(getattr(transform, "function", transform), "__module__", None) or ""


def _part(part: Any) -> str:
    """Return the sha256 of a part's JSON, and of its code where that is not lmkit's."""
    return _sha256(dump(to_json(part)) + code_of(*_classes(part)))


def _classes(part: Any) -> Iterator[type]:
    """Yield the classes of a part and of the parts in it."""
    yield type(part)
    if not attrs.has(type(part)):
        return
    for field in attrs.fields(type(part)):
        found = getattr(part, field.name)
        inner = found if isinstance(found, (list, tuple)) else [found]
        for one in inner:
            if attrs.has(type(one)):
                yield from _classes(one)


def _transforms(task: Task) -> str:
    """Return the sha256 of the code of a task's transforms."""
    if not task.transforms:
        return NONE
    texts = []
    for transform in task.transforms:
        if isinstance(transform, Lost):
            raise Unknowable(f"the transform {transform} was not written down")
        try:
            texts.append(code_of(type(transform).__qualname__, _function_of(transform)))
        except Unknowable as error:
            raise Unknowable(
                f"what the transform {transform} does cannot be known: {error}"
            ) from error
    names = ", ".join(map(str, task.transforms))
    return f"{names} {_sha256(' '.join(texts))}"


def _function_of(transform: Any) -> Any:
    return transform.function if isinstance(transform, (Map, Where)) else transform
