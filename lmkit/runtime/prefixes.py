"""Keep the keys and values of texts that were read, for requests that begin in the same way.

A task's fixed opening is the beginning of all its prompts, and a chat's next turn begins with the turns
before it. What they left in a finished request's buffers is copied here, and from here into the
buffers of the next request that begins with the same ids: it reads only what follows.

A copy is right by construction: keys and values depend on nothing but the ids up to their place, and
on the model, of which every session is one. Reading in parts gives the numbers that reading at once
gives, bit by bit, as long as each part has two tokens at least (a single one goes through other
kernels); so nothing is found that would leave one token to read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

import attrs
import numpy as np

from lmkit.answering.logits import Logits
from lmkit.encoding import Ids

PREFIX_CACHE_BYTES = 1 << 27  # what is kept for a model if nobody says
MOST_TEXTS = 64  # all of them are looked through for each request
LEAST = 8  # tokens; fewer are read as fast as copied


@attrs.frozen(eq=False)
class Kept:
    """The beginning of a text, and what it left.

    Attributes:
        ids: int64 [n].
        n_read: how many of them, from the first, were read several at a time; those behind were
            written one by one, which rounds otherwise.
        parts: every layer's keys and values, float32 [2 * layers, KV, n, D]; never written to.
    """

    ids: Ids
    n_read: int
    parts: Logits

    @property
    def n_bytes(self) -> int:
        """The memory it takes."""
        return self.ids.nbytes + self.parts.nbytes


class Prefixes:
    """Texts that were read, the latest used ones, within a bound; safe to use from several threads.

    Args:
        most_bytes: the most memory that they may take; 0 keeps nothing.

    Attributes:
        n_bytes: the memory that they take.
    """

    def __init__(self, most_bytes: int = PREFIX_CACHE_BYTES) -> None:
        self.most_bytes = most_bytes
        self.n_bytes = 0
        self._kept: OrderedDict[int, Kept] = OrderedDict()  # by identity, the latest used last
        self._lock = threading.Lock()

    def find(self, ids: Ids, *, written: bool) -> tuple[Kept, int] | None:
        """Find the text that has most of the same beginning.

        Args:
            ids: int64 [P].
            written: whether what was written token by token counts.
        Returns:
            The text, and how many of its tokens are the same; None if too few are.
        """
        with self._lock:
            best, most = None, LEAST - 1
            for kept in reversed(self._kept.values()):
                known = kept.ids if written else kept.ids[: kept.n_read]
                n_shared = n_common(known, ids[:-2])
                if n_shared > most:
                    best, most = kept, n_shared
            if best is None:
                return None
            self._kept.move_to_end(id(best))
            return best, most

    def keep(self, ids: Ids, n_read: int, arrays: Mapping[str, Logits], start: int = 0) -> None:
        """Keep what a text left in the buffers; what it continues goes, since it is part of it.

        Args:
            ids: int64 [n]; of a text that is larger than the bound, the beginning is kept.
            n_read: how many of them were read several at a time.
            arrays: every layer's keys and values, float32 [KV, T, D] each; they are copied.
            start: the place of the first token in them.
        """
        of_one = 8 + sum(array[:, 0].nbytes for array in arrays.values())
        ids = ids[: self.most_bytes // of_one].copy()
        if len(ids) < LEAST or self._holds(ids):
            return
        end = start + len(ids)
        parts = np.stack([array[:, start:end] for array in arrays.values()])
        new = Kept(ids, min(n_read, len(ids)), parts)
        with self._lock:
            for key, kept in list(self._kept.items()):
                if n_common(kept.ids, ids) == len(kept.ids):
                    self._drop(key)
            self._kept[id(new)] = new
            self.n_bytes += new.n_bytes
            while self.n_bytes > self.most_bytes or len(self._kept) > MOST_TEXTS:
                self._drop(next(iter(self._kept)))

    def _holds(self, ids: Ids) -> bool:
        """Return whether a text is the beginning of one that is kept; then that one counts as used."""
        with self._lock:
            for key, kept in self._kept.items():
                if n_common(kept.ids, ids) == len(ids):
                    self._kept.move_to_end(key)
                    return True
        return False

    def _drop(self, key: int) -> None:
        self.n_bytes -= self._kept.pop(key).n_bytes


def n_common(first: Ids, second: Ids) -> int:
    """Return how many ids two texts have in common at their beginning.

    >>> n_common(np.array([1, 2, 3]), np.array([1, 2, 4, 5]))
    2
    """
    least = min(len(first), len(second))
    differ = first[:least] != second[:least]
    return int(differ.argmax()) if differ.any() else least
