"""Models: which bundles a server answers with, and under which names."""

from __future__ import annotations

import datetime
import logging
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs

from lmkit.batching import Engine, Limits, Turn, open_engine
from lmkit.errors import DuplicateName, LmkitError, UnknownName
from lmkit.runtime.generator import Generator
from lmkit.runtime.masked import MaskFiller
from lmkit.saving.manifest import Manifest
from lmkit.serve.news import News
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer

log = logging.getLogger("lmkit.serve")

_NAME = re.compile(r"[\w.:-]+")


@attrs.frozen(kw_only=True, eq=False)
class Served:
    """One bundle behind its names.

    Attributes:
        name: what it is called; unique.
        engine: what answers.
        aliases: other names for it.
        writes: whether its answers are written freely, so that options steer them.
    """

    name: str
    engine: Engine = attrs.field(repr=False)
    aliases: tuple[str, ...] = ()
    writes: bool = attrs.field(init=False)  # the task would look through a protocol each time

    @writes.default
    def _writes(self) -> bool:
        return self.engine.task.writes

    @property
    def model(self) -> Generator | MaskFiller:
        """The opened bundle."""
        return self.engine.model

    @property
    def manifest(self) -> Manifest:
        """The bundle's `lmkit.json`."""
        return self.model.manifest

    @property
    def task(self) -> Task:
        """What it does."""
        return self.engine.task

    @property
    def tokenizer(self) -> Tokenizer:
        """What its prompts are made with."""
        return self.model.tokenizer

    @property
    def context_length(self) -> int | None:
        """The most tokens that the model can hold, or None."""
        return self.manifest.graph.context_length

    @property
    def created(self) -> int:
        """When the bundle was written, in seconds since 1970."""
        return int(datetime.datetime.fromisoformat(self.manifest.created).timestamp())


class Models:
    """The bundles of one server.

    Args:
        served: the bundles.
        news: what their engines tell of each step.
    Raises:
        DuplicateName: two of them have one name.
        LmkitError: a name cannot stand in an address.

    Attributes:
        news: as given.
        is_closing: whether they take no more requests.
    """

    def __init__(self, served: Iterable[Served], news: News) -> None:
        self.news = news
        self.is_closing = False
        self._served: dict[str, Served] = {}
        for one in served:
            if not _NAME.fullmatch(one.name):
                raise LmkitError(
                    f"the name '{one.name}' cannot stand in an address; expected letters, digits, "
                    f"'-', '_', '.' and ':', as in 'NAME={one.model.path}'"
                )
            if one.name in self._served:
                raise DuplicateName(
                    f"two bundles are to be served as '{one.name}'; give one another name, as in "
                    f"'NAME={one.model.path}'"
                )
            self._served[one.name] = one
        self._aliases = _unambiguous(self._served)

    @classmethod
    def open(
        cls,
        bundles: Iterable[str | Path | tuple[str | None, str | Path]] | Mapping[str, str | Path],
        *,
        limits: Limits | None = None,
        **options: Any,
    ) -> Models:
        """Open bundles.

        Args:
            bundles: folders, each with or without a name. A bundle without one gets its task's, or
                the folder's where two tasks share one.
            limits: what each engine may hold.
            options: as for `lmkit.batching.open_engine`, such as `precision` and `verify`.
        Raises:
            BundleError: a bundle is missing or damaged.
            DuplicateName: two bundles would have one name.
        """
        news = News()
        named = [
            one if isinstance(one, tuple) else (None, one)
            for one in (bundles.items() if isinstance(bundles, Mapping) else bundles)
        ]
        paths = [path for _, path in named]
        options |= {} if limits is None else {"limits": limits}
        options |= {"turn": Turn()} if len(paths) > 1 else {}
        engines: list[Engine] = []
        try:
            for path in paths:
                log.info("opening %s", path)
                engines.append(open_engine(path, on_news=news, **options))
            tasks = [engine.task.name for engine in engines]
            unnamed = [task for task, (name, _) in zip(tasks, named, strict=True) if name is None]
            names = [
                name or (task if unnamed.count(task) == 1 else _folder(path))
                for task, (name, path) in zip(tasks, named, strict=True)
            ]
            aliases = [
                tuple(sorted({task, _folder(path)} - {str(name)}))
                for name, task, path in zip(names, tasks, paths, strict=True)
            ]
            return cls(
                (
                    Served(name=name, engine=engine, aliases=others)
                    for name, engine, others in zip(names, engines, aliases, strict=True)
                ),
                news,
            )
        except BaseException:
            for engine in engines:
                engine.close()
            raise

    def __iter__(self) -> Any:
        return iter(self._served.values())

    def __len__(self) -> int:
        return len(self._served)

    def __getitem__(self, name: str) -> Served:
        """Return the bundle of a name or an alias.

        Raises:
            UnknownName: there is none.
        """
        found = self._served.get(name) or self._aliases.get(name)
        if found is None:
            raise UnknownName("model", name, self._served)
        return found

    @property
    def names(self) -> list[str]:
        """Every name, aliases last."""
        return [*self._served, *self._aliases]

    def close(self, *, drain: float = 0.0) -> None:
        """Close all engines, which finish what they are at for so many seconds."""
        self.is_closing = True
        if not self._served:
            return
        with ThreadPoolExecutor(len(self._served)) as closing:
            for one in self:
                closing.submit(one.engine.close, drain=drain)


def _folder(path: str | Path) -> str:
    return Path(path).resolve().name


def _unambiguous(served: Mapping[str, Served]) -> dict[str, Served]:
    """Return the aliases that are no name and that one bundle alone has."""
    having: dict[str, set[str]] = {}
    for one in served.values():
        for alias in one.aliases:
            having.setdefault(alias, set()).add(one.name)
    return {
        alias: served[next(iter(names))]
        for alias, names in having.items()
        if len(names) == 1 and alias not in served
    }
