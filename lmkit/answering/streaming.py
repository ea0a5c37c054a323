"""Stream: ids become text as they come, in pieces that are safe to show.

Both loops, torch's and the runtime's, push the ids that a model writes and pass the pieces on.
Joined, the pieces are exactly the decoded text of all ids, up to where a stop string begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Sequence

from lmkit.decoding import Answer

REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no character, or not yet one

# A character takes four bytes at most, so three ids at most can be waiting for its last byte.
# Source: RFC 3629, section 3.
_MOST_WAITING = 3

# The window is a handful of ids; past this many it is cut by force, down to the last few.
_LONGEST_WINDOW = 32
_LAST_FEW = 8

# Text whose last character is sure, or likely, to grow: what stands before a zero-width joiner, the
# first half of a flag, and Hangul written in conjoining jamo (a leading consonant, with vowels).
# Source: Unicode Standard Annex #29, table 2 and rules GB6, GB7, GB11, GB12.
_UNFINISHED = re.compile(
    "(?:"
    "(?:[^\\s\u200d]?[\ufe0f\U0001f3fb-\U0001f3ff]?\u200d)+"
    "|(?<![\U0001f1e6-\U0001f1ff])(?:[\U0001f1e6-\U0001f1ff]{2})*(?P<half>[\U0001f1e6-\U0001f1ff])"
    "|[\u1100-\u115f\ua960-\ua97c]+[\u1160-\u11a7\ud7b0-\ud7c6]*"
    ")\\Z"
)
# Text that ends otherwise is not looked through: below the first of those characters, or in a whole syllable.
_FIRST_UNFINISHED = "\u1100"
_SYLLABLES = "\uac00", "\ud7a3"
_LONGEST_CLUSTER = 32  # characters; a model may write joiners for ever


def in_one_piece(answer: Answer) -> Generator[str, None, Answer]:
    """Yield the text of an answer that is whole already, and return the answer, as a stream does."""
    yield answer.text
    return answer


class IncrementalText:
    """Turns ids into text, one piece at a time, without decoding everything again.

    Held back are: a character of which bytes are missing, a character that clearly goes on (before
    a zero-width joiner, half a flag, unfinished jamo), and what may be a stop string's beginning.
    A combining mark, a variation selector or a skin tone that follows comes in the next piece.

    A window of a few ids is decoded at a time. It always begins with an id that gave text and that
    was shown already, so that a decoder's special treatment of the first id (SentencePiece drops
    its space, WordPiece keeps its "##") falls on an id whose text is known.

    One kind of decoder takes back what it said: byte fallback writes a run of byte tokens as
    replacement characters from its start if the run turns out malformed (a real U+FFFD in the run
    looks just so). Text that was shown by then stays; the rest becomes replacement characters.

    Args:
        decode: ids to text, control tokens left out if they are to be left out.
        stop: texts that end the output; they are not part of it.
        context_ids: ids that come before, such as the prompt's; they are not shown, and only their
            end is decoded. Without them the first id counts as the start of a text.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        stop: Sequence[str] = (),
        context_ids: Iterable[int] = (),
    ) -> None:
        self._decode = decode
        self._filter = StopFilter(stop)
        self._pieces: list[str] = []
        self._finished = False
        # The window's text is decode(_ids); its first `_shown` characters have been passed on.
        # Up to `_mark` it is a prefix that gave text, all of it passed on.
        self._ids = _ending(decode, list(context_ids))
        self._mark = len(self._ids)
        self._settled = len(self._ids)  # how many ids there were when no byte was missing
        self._shown = len(decode(self._ids)) if self._ids else 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string came; nothing is shown from then on."""
        return self._filter.found is not None

    @property
    def stop_string(self) -> str | None:
        """The stop string that came, or None."""
        return self._filter.found

    @property
    def text(self) -> str:
        """All pieces so far, joined."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def push(self, *ids: int) -> str:
        """Add ids and return the text that has become safe to show, often "".

        >>> text = IncrementalText(lambda ids: bytes(ids).decode(errors="replace"), stop=["!"])
        >>> [text.push(byte) for byte in "안!".encode()], text.stopped
        (['', '', '안', ''], True)
        """
        if self._finished:
            raise RuntimeError("ids were pushed after finish()")
        return "".join(self._push(token) for token in ids)

    def finish(self) -> str:
        """Return what was held back; no id comes after it. A second call returns ""."""
        if self._finished or self.stopped:
            self._finished = True
            return ""
        self._finished = True
        rest = self._decode(self._ids)[self._shown :] if self._ids else ""
        return self._keep(self._filter.push(rest) + self._filter.finish())

    def _push(self, token: int) -> str:
        if self.stopped:
            return ""
        self._ids.append(token)
        text = self._decode(self._ids)
        safe = self._safe_length(text)
        piece = text[self._shown : safe]
        self._shown = max(self._shown, safe)
        if text and safe == len(text):
            self._trim()
        elif len(self._ids) > _LONGEST_WINDOW:
            self._trim_by_force(text)
        return self._keep(self._filter.push(piece))

    def _keep(self, piece: str) -> str:
        if piece:
            self._pieces.append(piece)
        return piece

    def _safe_length(self, text: str) -> int:
        """Return how many characters of the window's text no later id can change."""
        end = len(text.rstrip(REPLACEMENT))
        if end == len(text):
            self._settled = len(self._ids)
        elif len(self._ids) - self._settled > _MOST_WAITING:
            # Too many for one character: all but the last are malformed bytes, or real U+FFFD.
            end = len(text) - 1
        last = text[end - 1 : end]
        if last < _FIRST_UNFINISHED or _SYLLABLES[0] <= last <= _SYLLABLES[1]:
            return end
        # What was shown ends between flags, so the halves are counted from there.
        unfinished = _UNFINISHED.search(text[self._shown : end])
        if unfinished is not None:
            start = self._shown + unfinished.start("half" if unfinished["half"] else 0)
            if end - start <= _LONGEST_CLUSTER:
                return start
        return end

    def _trim(self) -> None:
        """Move the window on to the ids since the mark, if they can stand at its beginning."""
        recent = self._ids[self._mark :]
        text = self._decode(recent) if self._mark else ""
        if text:
            self._ids, self._shown = recent, len(text)
        if text or not self._mark:
            self._mark = self._settled = len(self._ids)
        elif len(self._ids) > _LONGEST_WINDOW:
            self._trim_by_force(self._decode(self._ids))

    def _trim_by_force(self, text: str) -> None:
        """Drop ids from the middle of a window that never comes to rest.

        That is: control tokens without end, or tokens that always leave a byte to the next. It is
        safe if what is still to be shown stays the same.
        """
        ids = self._ids[: self._mark] + self._ids[max(self._mark, len(self._ids) - _LAST_FEW) :]
        shorter = self._decode(ids)
        waiting = text[self._shown :]
        if shorter.endswith(waiting) and (len(shorter) > len(waiting) or not text):
            self._settled = max(self._mark, self._settled - len(self._ids) + len(ids))
            self._ids, self._shown = ids, len(shorter) - len(waiting)


class StopFilter:
    """Passes text on up to the first stop string, however the text is cut into pieces.

    The stop string that is complete first ends the text; of several that are complete with the same
    character, the longest does. So the result does not depend on how ids cut the text.

    Args:
        stop: the stop strings; none of them empty.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.found: str | None = None
        self._stop = tuple(stop)
        self._held = ""

    def push(self, piece: str) -> str:
        """Return what is certainly not part of a stop string.

        >>> stops = StopFilter(["##"])
        >>> stops.push("a#"), stops.push("b#"), stops.push("#c")
        ('a', '#b', '')
        """
        if not self._stop or self.found is not None:
            return "" if self.found is not None else piece
        text = self._held + piece
        matches = [(text.find(stop), stop) for stop in self._stop]
        ends = [(start + len(stop), start, stop) for start, stop in matches if start >= 0]
        if ends:
            _, start, self.found = min(ends)
            self._held = ""
            return text[:start]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """Return what was held back: no stop string can be completed any more."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest beginning of `stop`, not all of it, that ends `text`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


def _ending(decode: Callable[[list[int]], str], ids: list[int]) -> list[int]:
    """Return the last few ids, enough to give text and not to begin inside a character."""
    count = _LAST_FEW
    while count < len(ids):
        for size in range(count, count + 4):  # one of four neighbours begins with a character
            text = decode(ids[-size:])
            if text and REPLACEMENT not in text:
                return ids[-size:]
        count *= 2
    return ids
