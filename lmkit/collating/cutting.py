"""Cut a row that is too long: by its segments, as far as the formatter says what of them may go."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lmkit.encoding import Ids
from lmkit.errors import RecordError
from lmkit.formatting import Cut, Segment

Kept = NDArray[np.bool_]

LEFT, RIGHT = Cut("left"), Cut("right")
NAMED = 40  # characters of a segment that an error names


def fitted(
    segments: Sequence[Segment],
    owners: Callable[[], Ids],
    n_ids: int,
    room: int,
    *,
    unsaid: Sequence[Cut],
    end: int | None = None,
) -> Kept:
    """Return which ids of some segments stay, bool [N], so that at most `room` of them do.

    What is of a lower order goes first, and of one order what stands further left; neighbours of an
    equal cut are one piece, which goes from its one side.

    Args:
        segments: S segments.
        owners: returns int64 [N], for each id the segment that it is of; asked only if needed.
        n_ids: N.
        room: how many ids may stay.
        unsaid: S cuts, what goes of a segment that does not say so itself.
        end: an id that stays, the last one that is learned.
    Raises:
        RecordError: more may not go; the text names a segment that must stay.
    """
    kept = np.ones(n_ids, dtype=np.bool_)
    over = n_ids - room
    if over <= 0:
        return kept
    cuts = [segment.cut or other for segment, other in zip(segments, unsaid, strict=True)]
    owner = owners() if len(set(cuts)) > 1 else np.zeros(n_ids, dtype=np.int64)
    used = np.bincount(owner, minlength=len(segments)) > 0
    places = [place for place in range(len(segments)) if used[place]]
    pieces = [list(piece) for _, piece in itertools.groupby(places, key=lambda at: cuts[at])]
    for piece in sorted(pieces, key=lambda piece: cuts[piece[0]].order):
        side = cuts[piece[0]].side
        if over <= 0 or side == "never":
            continue
        ids = np.flatnonzero((owner >= piece[0]) & (owner <= piece[-1]))
        ids = ids[ids != end]
        gone = ids if side == "whole" else ids[:over] if side == "left" else ids[-over:]
        kept[gone] = False
        over -= len(gone)
    if over > 0:
        raise _too_long(segments, owner, room, int(kept.sum()))
    return kept


def _too_long(segments: Sequence[Segment], owner: Ids, room: int, left: int) -> RecordError:
    stays = [
        place
        for place, segment in enumerate(segments)
        if segment.cut is not None and segment.cut.side == "never"
    ]
    if not stays:
        return RecordError(
            "", f"there is room for {room} of its tokens, and {left} must stay; raise max_length"
        )
    longest = max(stays, key=lambda place: int((owner == place).sum()))
    text = segments[longest].text
    named = repr(text if len(text) <= NAMED else f"{text[:NAMED]}...")
    return RecordError(
        "",
        f"{named} is never to be cut, so {left} of its tokens must stay, and there is room for "
        f"{room}; raise max_length, or let it be cut",
    )
