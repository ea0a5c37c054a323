"""Mix: several tasks are learned by one model, in exact proportions.

A `Mixture` says which tasks and how much of each; `MixedFeed` arranges their rows. Each record
keeps its own task's formatter, so what is learned of it is what that task alone would learn.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from lmkit.collating import BatchFeed, Collator, Feed, Schedule
from lmkit.collating.chance import Keys
from lmkit.collating.packing import PackedRows
from lmkit.encoding import Encoded, Ids
from lmkit.errors import TaskError, UnknownName
from lmkit.family import Family
from lmkit.losses import LossFunction
from lmkit.task import Task
from lmkit.validators import POSITIVE, as_float, as_int, at_least
from lmkit.values import value


@value
class Share:
    """One task of a mixture, and how much of it there is.

    Attributes:
        task: the task.
        weight: its part of the whole, in proportion to the others' weights.
    """

    task: Task = attrs.field(validator=attrs.validators.instance_of(Task))
    weight: float = attrs.field(converter=as_float, validator=POSITIVE)


def _as_tuple(shares: Iterable[Share]) -> tuple[Share, ...]:
    return tuple(shares)


@value
class Mixture:
    """Tasks that one model learns together; `mix` makes it.

    Attributes:
        shares: the tasks with their weights.
        seed: decides which rows an epoch takes, and in which order.
    Raises:
        TaskError: two tasks are of unlike families or collators, or have one name.
    """

    shares: tuple[Share, ...] = attrs.field(converter=_as_tuple)
    seed: int = attrs.field(default=0, converter=as_int, validator=at_least(0))

    @shares.validator
    def _check_shares(self, attribute: object, shares: tuple[Share, ...]) -> None:
        if len(shares) < 2:
            raise TaskError("a mixture needs two tasks or more")
        first = shares[0].task
        for index, share in enumerate(shares):
            if any(share.task.name == other.task.name for other in shares[:index]):
                raise TaskError(
                    f"a mixture has two tasks named '{share.task.name}'; "
                    "give one of them another name, with task.evolve(name=...)"
                )
            _check_like(first, share.task)

    def __repr__(self) -> str:
        parts = ", ".join(f"{share.task.name!r}: {share.weight:g}" for share in self.shares)
        return f"mix({{{parts}}}" + (f", seed={self.seed})" if self.seed else ")")

    @property
    def name(self) -> str:
        """The tasks' names together."""
        return "+".join(task.name for task in self.tasks)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in order."""
        return tuple(share.task for share in self.shares)

    @property
    def weights(self) -> tuple[float, ...]:
        """How much there is of each task."""
        return tuple(share.weight for share in self.shares)

    @property
    def loss(self) -> LossFunction | None:
        """What is made small in place of the mean over learned tokens: all tasks' own."""
        return self.tasks[0].loss

    @property
    def family(self) -> Family:
        """How the model reads a row."""
        return self.tasks[0].family

    @property
    def collator(self) -> Collator:
        """What makes batches of all tasks' rows: that of the task with the longest rows."""
        return max((task.collator for task in self.tasks), key=lambda c: c.max_length)

    def task(self, name: str) -> Task:
        """Return one of the tasks.

        Raises:
            UnknownName: the mixture has no such task.
        """
        known = {task.name: task for task in self.tasks}
        if name not in known:
            raise UnknownName(f"task in the mixture {self.name}", name, known)
        return known[name]

    def with_tasks(self, tasks: Sequence[Task]) -> Mixture:
        """Return the mixture with other tasks in these ones' places."""
        shares = [Share(task, weight) for task, weight in zip(tasks, self.weights, strict=True)]
        return Mixture(shares, self.seed)


def mix(weights: Mapping[Task | str, float], *, seed: int = 0) -> Mixture:
    """Return a mixture of tasks for one model to learn.

    An epoch has as many rows as the data of all tasks together, and they are shared out by weight:
    of 3 to 1, exactly three quarters are the first task's (to the nearest row; where shares are
    broken, the largest remainders are rounded up). A task with too few rows for that starts over,
    each time in a new order; one with too many goes on in the next epoch where it stopped, so
    within a task every row comes up as often as any other.

    Args:
        weights: tasks, or their names, with how much of each there is to be.
        seed: the same seed gives the same rows in the same order.
    Raises:
        TaskError: the tasks do not go together; the text names both.
        UnknownTask: no plugin has a task of that name.

    >>> import lmkit
    >>> mix({lmkit.get_task("qa"): 3, "alpaca": 1})
    mix({'qa': 3, 'alpaca': 1})
    """
    from lmkit.registry import one_task

    if not isinstance(weights, Mapping):
        raise TaskError("mix() takes tasks with their weights, as in mix({'qa': 3, 'alpaca': 1})")
    return Mixture([Share(one_task(task), weight) for task, weight in weights.items()], seed)


def tasks_of(what: Task | Mixture) -> tuple[Task, ...]:
    """Return a mixture's tasks, or the task alone."""
    return what.tasks if isinstance(what, Mixture) else (what,)


def counts(weights: Sequence[float], total: int) -> list[int]:
    """Share out a number by weight, with the largest remainders rounded up.

    >>> counts([3, 1], 8), counts([1, 1, 1], 10)
    ([6, 2], [4, 3, 3])
    """
    whole = math.fsum(weights)
    exact = [total * weight / whole for weight in weights]
    found = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: found[index] - exact[index])
    for index in by_remainder[: total - sum(found)]:
        found[index] += 1
    return found


class MixedFeed:
    """Rows of several tasks, in exact proportions in each epoch; see `mix`.

    Of packed rows each sequence is of one task, and an epoch has as many sequences of a task as its
    share of rows fills.

    Args:
        mixture: the tasks.
        feeds: what each task's rows are drawn from, in the same order.
    Raises:
        TaskError: a task's share of an epoch is less than one row.
    """

    def __init__(self, mixture: Mixture, feeds: Sequence[Feed | Schedule]) -> None:
        self.feeds = tuple(feeds)
        self.seed = mixture.seed
        sizes = [feed.n_rows if isinstance(feed, PackedRows) else len(feed) for feed in feeds]
        n_rows = counts(mixture.weights, sum(sizes))
        self.counts = [
            max(1, round(count * len(feed) / size)) if count else 0
            for count, feed, size in zip(n_rows, feeds, sizes, strict=True)
        ]
        for task, count in zip(mixture.tasks, self.counts, strict=True):
            if not count:
                raise TaskError(
                    f"in an epoch of {sum(n_rows)} rows there is none of task '{task.name}'; "
                    "give it a larger weight, or more data to all"
                )

    def __len__(self) -> int:
        return sum(self.counts)

    def epoch(self, number: int, seed: int = 0) -> MixedEpoch:
        """Return an epoch; its order depends on the mixture's seed and the number alone."""
        return MixedEpoch(self, number, seed)


class MixedEpoch:
    """One epoch of a `MixedFeed`."""

    def __init__(self, feed: MixedFeed, number: int, seed: int) -> None:
        self._feed = feed
        self._number = number
        self._seed = seed

    def __len__(self) -> int:
        return len(self._feed)

    def draw(self, index: int, rng: np.random.Generator) -> Encoded:
        """Return a row, with its task's place in the mixture as `group`."""
        group, cycle, row = self._place(index)
        return attrs.evolve(self._drawn_from(group, cycle).draw(row, rng), group=group)

    def draw_all(self, indices: Sequence[int], keys: Keys) -> list[Encoded]:
        """Return some rows; those of a task that can only be drawn one by one get their own rng."""
        found = []
        for index, key in zip(indices, keys, strict=True):
            group, cycle, row = self._place(index)
            feed = self._drawn_from(group, cycle)
            if isinstance(feed, BatchFeed):
                drawn = feed.draw_all([row], key[None])[0]
            else:
                drawn = feed.draw(row, np.random.default_rng(int(key)))
            found.append(attrs.evolve(drawn, group=group))
        return found

    def place(self, index: int) -> tuple[int, int]:
        """Return which task stands at an index, and which of its rows."""
        group, _, row = self._place(index)
        return group, row

    def _drawn_from(self, group: int, cycle: int) -> Feed:
        feed = self._feed.feeds[group]
        return feed.epoch(cycle, self._seed) if isinstance(feed, Schedule) else feed

    def _place(self, index: int) -> tuple[int, int, int]:
        """Return which task stands at an index, the how-manieth time it is gone through, and its row."""
        feed = self._feed
        slot = int(_permutation((feed.seed, 0, self._number), len(feed))[index])
        group = 0
        while slot >= feed.counts[group]:
            slot -= feed.counts[group]
            group += 1
        size = len(feed.feeds[group])
        cycle, at = divmod(self._number * feed.counts[group] + slot, size)
        return group, cycle, int(_permutation((feed.seed, 1 + group, cycle), size)[at])


@functools.lru_cache(maxsize=64)
def _permutation(seed: tuple[int, ...], length: int) -> Ids:
    """Return an order of 0 to `length` - 1, int64 [length]."""
    return np.random.default_rng(seed).permutation(length)


def _check_like(first: Task, other: Task) -> None:
    """Refuse two tasks that one model or one batch cannot hold."""
    if first.family is not other.family:
        raise TaskError(
            f"'{first.name}' is a {first.family} task and '{other.name}' a {other.family} one, "
            "so one model cannot learn both; mix tasks of one family"
        )
    kinds = type(first.collator), type(other.collator)
    if kinds[0] is not kinds[1]:
        raise TaskError(
            f"'{first.name}' makes rows with a {kinds[0].__name__} and '{other.name}' with a "
            f"{kinds[1].__name__}, so they do not fit into one batch"
        )
    if getattr(first.collator, "pack", False) != getattr(other.collator, "pack", False):
        raise TaskError(
            f"of '{first.name}' and '{other.name}' one packs its rows and the other does not, so they "
            "do not fit into one batch; give both collators the same pack"
        )
    if first.loss != other.loss:
        raise TaskError(
            f"'{first.name}' and '{other.name}' name unlike losses ({first.loss} and {other.loss}), "
            "and one batch has one; give both the same"
        )


def by_task(what: Task | Mixture, data: Any, *, option: str, all_: bool = True) -> Iterator[Any]:
    """Yield the data of each task, None where a task has none.

    Args:
        what: what is trained or measured.
        data: for a task its data; for a mixture a mapping from each task's name to its data.
        option: what the data was given as, for messages.
        all_: whether every task must have some.
    Raises:
        TaskError: the mapping's names are not the mixture's.
    """
    if isinstance(what, Task):
        if isinstance(data, Mapping):
            raise TaskError(
                f"{option} is a mapping, as for a mixture; '{what.name}' is a single task and takes "
                "a file or a list of records"
            )
        yield data
        return
    names = [task.name for task in what.tasks]
    form = ", ".join(f"'{name}': ..." for name in names)
    if not isinstance(data, Mapping):
        raise TaskError(f"{option} is for a mixture; expected one for each task: {{{form}}}")
    for name in data:
        what.task(name)
    for name in names:
        if all_ and name not in data:
            raise TaskError(f"{option} has nothing for task '{name}'; expected {{{form}}}")
        yield data.get(name)
