"""Ranks: one training in several processes, as torchrun and `accelerate launch` start them.

A launcher starts the same command in every process and tells each by its environment which one it
is. The first (rank 0) reads the data before the others do, writes the run and speaks; the others
compute. Nothing here imports torch before it is asked for, and alone every function does what one
process would do without it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from lmkit.errors import LmkitError
from lmkit.train.extra import torch

Made = TypeVar("Made")
Given = TypeVar("Given")

TIMEOUT_S = 1800  # transformers' default for `ddp_timeout`
STORE_TIMEOUT_S = 10  # for the launcher's store, which is on the first machine and may be gone


def world_size() -> int:
    """Return how many processes train together, as the launcher says; 1 where there is none."""
    return max(1, _number("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def rank() -> int:
    """Return which of them this is, from 0."""
    return _number("RANK", 0) if world_size() > 1 else 0


def is_first() -> bool:
    """Say whether this is the process that writes and speaks; alone it always is."""
    return rank() == 0


def join(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Meet the other processes, if there are any, and return what the arguments become by it.

    Without a GPU, transformers would let each process train for itself unless `use_cpu` says so;
    here it does.

    Args:
        arguments: training arguments; of them `use_cpu`, `ddp_backend` and `ddp_timeout` decide how
            the processes speak to each other.
    Raises:
        LmkitError: they cannot meet.
    """
    if world_size() == 1:
        return dict(arguments)
    found = {"use_cpu": not _has_device(), **arguments}
    from accelerate import PartialState

    if not torch().distributed.is_initialized():
        seconds = float(found.get("ddp_timeout", TIMEOUT_S))
        try:
            PartialState(
                cpu=bool(found["use_cpu"]),
                backend=found.get("ddp_backend"),
                timeout=timedelta(seconds=seconds),
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise LmkitError(
                f"the {world_size()} processes of this training cannot meet: {error}"
            ) from error
        atexit.register(_leave)
    return found


def _leave() -> None:
    """Part from the others: a process that ends with its threads for them may be aborted by that."""
    if torch().distributed.is_initialized():
        torch().distributed.destroy_process_group()


def wait() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        share(None)


def share(given: Given) -> Given:
    """Return what the first process gives, in all of them; it must pickle."""
    if world_size() == 1:
        return given
    box = [given]
    torch().distributed.broadcast_object_list(box, src=0)
    return box[0]


def first(work: Callable[[], Made]) -> Made:
    """Do something in the first process, and return what it gives in all of them.

    Raises:
        LmkitError: it has failed; in the first process what it raised itself.
    """
    if world_size() == 1:
        return work()
    if is_first():
        return _told(work)
    made: Made = _heard(share(None))
    return made


def first_before_others(work: Callable[[], Made]) -> Made:
    """Do something in the first process, then in the others, which may find what it has kept."""
    if world_size() == 1:
        return work()
    if is_first():
        found: list[Made] = []
        _told(lambda: found.append(work()))
        return found[0]
    _heard(share(None))
    return work()


def agree(what: str, given: Any) -> None:
    """Refuse to go on where processes have not been given the same.

    Args:
        what: what is compared, as an error names it.
        given: it, or what tells it from others.
    Raises:
        LmkitError: a process has another than the first.
    """
    if world_size() == 1:
        return
    found: list[Any] = [None] * world_size()
    torch().distributed.all_gather_object(found, given)
    for index, one in enumerate(found):
        if one != found[0]:
            raise LmkitError(
                f"process {index} has another {what} than process 0: {one}, not {found[0]}; all "
                "processes need the same files and the same versions"
            )


def total(figures: Sequence[float]) -> list[float]:
    """Return sums over all processes, of float64 figures in one order."""
    if world_size() == 1:
        return list(figures)
    found: list[Any] = [None] * world_size()
    torch().distributed.all_gather_object(found, list(figures))
    return [sum(column) for column in zip(*found, strict=True)]


@contextlib.contextmanager
def only_first(context: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    """Enter a context in the first process alone."""
    with context if is_first() else contextlib.nullcontext():
        yield


def may_speak() -> bool:
    """Say whether this process is the first to end with an error, and so the one to tell it.

    Where the launcher keeps no store that outlives the processes, every process tells its own.
    """
    if world_size() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = torch().distributed.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=STORE_TIMEOUT_S),
        )
        return bool(store.add(f"lmkit/ended/{attempt}", 1) == 1)
    except (RuntimeError, LmkitError, KeyError, ValueError):  # the launcher is gone
        return True


def lost(error: BaseException) -> bool:
    """Say whether an error means that another process has ended, or does not answer."""
    if world_size() == 1:
        return False
    network = getattr(torch().distributed, "DistError", ())
    return isinstance(error, network) or (
        isinstance(error, RuntimeError) and ("gloo" in str(error) or "closed by peer" in str(error))
    )


def _told(work: Callable[[], Made]) -> Made:
    """Do something and tell the other processes what came of it."""
    try:
        made = work()
    except Exception as error:
        share((False, str(error)))
        raise
    share((True, made))
    return made


def _heard(told: Any) -> Any:
    good, made = told
    if not good:
        raise LmkitError(made)
    return made


def _has_device() -> bool:
    """Say whether torch has a device besides the CPU that several processes can share work on."""
    # `current_accelerator` alone names what torch was built for, which this machine may not have.
    if not torch().accelerator.is_available():
        return False
    return bool(torch().accelerator.current_accelerator().type != "mps")


def _number(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        return default
