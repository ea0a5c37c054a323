"""Find where the end of a text stood before, so that what followed then can be guessed to follow now."""

from __future__ import annotations

from collections.abc import Iterable

N_TRIED = 8  # earlier places that are compared, the nearest first
MOST_MATCHED = 32  # tokens beyond which a longer match tells no more


class Repeats:
    """A text that grows, and for each place the one before it where the same two tokens stood.

    A token is added and a place found in constant time, however long the text is. The places of one
    pair form a chain, as in a compressor's window (LZ77's hash chains); a few of them are compared.

    >>> text = Repeats([5, 6, 7, 8, 5, 6])
    >>> text.match(), text.guess(3)
    (2, [7, 8, 5])
    """

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self.tokens: list[int] = []
        self._latest: dict[tuple[int, int], int] = {}
        self._earlier: list[int] = []  # by place: that of the same pair before, or -1
        self._source = -1
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        """Add a token to the end."""
        place = len(self.tokens)
        self.tokens.append(token)
        if not place:
            self._earlier.append(-1)
            return
        pair = (self.tokens[-2], token)
        self._earlier.append(self._latest.get(pair, -1))
        self._latest[pair] = place

    def match(self) -> int:
        """Look for the end of the text earlier in it.

        Returns:
            How many of the last tokens stood in the same order before: 0, or 2 to `MOST_MATCHED`.
            Of the places that are compared the longest match counts, of equal ones the nearest.
        """
        tokens, best = self.tokens, 0
        end = len(tokens) - 1
        place = self._earlier[end] if tokens else -1
        for _ in range(N_TRIED):
            if place < 0:
                break
            size, most = 2, min(MOST_MATCHED, place + 1)
            while size < most and tokens[place - size] == tokens[end - size]:
                size += 1
            if size > best:
                best, self._source = size, place
            place = self._earlier[place]
        return best

    def guess(self, count: int) -> list[int]:
        """Return what followed the place that the last `match` found, `count` tokens.

        Where the text ends before, the guess itself is what follows: a text that goes round in
        circles is guessed to go on doing so.
        """
        found: list[int] = []
        place, size = self._source + 1, len(self.tokens)
        for index in range(place, place + count):
            found.append(self.tokens[index] if index < size else found[index - size])
        return found
