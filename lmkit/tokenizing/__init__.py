"""The one tokenizer: pieces of text in, ids out, the same in training and in the runtime.

It wraps the `tokenizers` library and adds what a language-model task needs to be right:

- Control tokens act only in trusted text. `<|im_end|>` typed by a user is plain text. So are marks,
  such as `<think>`, but for text that a model learns to write.
- A stretch that continues a text does not get the space or the start marker that some tokenizers
  put before whatever they are given, so stretches encoded apart join without a seam.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from lmkit.errors import RecordError, TokenizerError
from lmkit.tokenizing.piecewise import Pieces
from lmkit.tokenizing.tokenizer_json import (
    ROLES,
    adds_space_everywhere,
    adds_space_to_words,
    backend,
    byte_pieces,
    default_template,
    guessed_special,
    has_opening_space,
    is_mark,
    only_where_cut_out,
    read_json,
    sane_length,
    special_of,
    without_opening_space,
)

if TYPE_CHECKING:
    import tokenizers

CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILE = "tokenizer.json"
TEMPLATE_FILE = "chat_template.jinja"

# White space as the `tokenizers` library has it; Python's own takes in U+001C to U+001F, too.
# Source: Unicode's White_Space property.
_SPACE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
REPLACEMENT = "\ufffd"  # what decoding writes for bytes that are no character

MOST_CHARACTERS = 10  # characters without a token that an error names


@attrs.frozen(kw_only=True, cache_hash=True)
class Dialect:
    """What a tokenizer brings to formatting: its chat template, its control tokens and its marks."""

    chat_template: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    control_tokens: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


@attrs.frozen
class ControlToken:
    """A token that steers the model; `lstrip` and `rstrip` say which white space it swallows."""

    text: str
    id: int
    lstrip: bool = False
    rstrip: bool = False


@attrs.frozen
class Span:
    """A piece of a text that is about to be encoded.

    Attributes:
        text: the piece itself.
        trusted: whether control tokens and marks act in it.
        marked: whether marks act in it, trusted or not, as in what a model learns to write.
    """

    text: str
    trusted: bool = False
    marked: bool = False


@attrs.frozen
class Reading:
    """What the library made of a part of a text, and at which of its characters that starts."""

    encoding: tokenizers.Encoding
    start: int


class Tokenizer:
    """A tokenizer as data: a `tokenizer.json`, the names of its special tokens, a chat template.

    Args:
        definition: the content of a `tokenizer.json`.
        special: `eos_token`, `bos_token`, `pad_token` and the like, each a token's text.
        chat_template: jinja2 source, or None.
        max_length: the most tokens the model that it belongs to can read, where that is known.
        parsed: the definition as JSON, where it has been parsed already: a vocabulary takes its time.
    """

    def __init__(
        self,
        definition: str,
        *,
        special: Mapping[str, str] | None = None,
        chat_template: str | None = None,
        max_length: int | None = None,
        parsed: Mapping[str, Any] | None = None,
    ) -> None:
        self.definition = definition
        self.special = {role: text for role, text in (special or {}).items() if text}
        self.chat_template = chat_template
        self.max_length = max_length
        data = json.loads(definition) if parsed is None else dict(parsed)
        added = data.get("added_tokens", ())
        self.control = tuple(_steering(token) for token in added if token["special"])
        self.marks = tuple(_steering(token) for token in added if is_mark(token, chat_template))
        self._control_by_text = {token.text: token for token in self.control}
        self._control_ids = {token.id: token.text for token in self.control}
        self._steering_ids = {token.id: token.text for token in (*self.control, *self.marks)}
        given, data = data, only_where_cut_out(data, self._steering_ids)
        self._opening = backend(data, definition if data == given else None)
        self._continuing = (
            backend(without_opening_space(data)) if has_opening_space(data) else self._opening
        )
        self._respaces_after_control = adds_space_everywhere(data)
        self._respaces_words = adds_space_to_words(data)
        self._unknown_id = self._id_of_unknown(data["model"])
        self._bytes = byte_pieces(data["model"])
        self._forgeable = {**self._bytes, **self._steering_ids}
        self._ahead: dict[tuple[object, ...], list[int]] = {}
        harmless = {*self._bytes, self._unknown_id}
        opening = Pieces(self._opening, data, self._forgeable, harmless)
        self._pieces = {True: opening, False: opening}
        if self._continuing is not self._opening:
            rest = without_opening_space(data)
            self._pieces[False] = Pieces(self._continuing, rest, self._forgeable, harmless)
        for role, text in self.special.items():
            if self.token_to_id(text) is None:
                raise TokenizerError(f"{role} is {text!r}, which the tokenizer does not contain")

    @classmethod
    def load(cls, source: Any) -> Tokenizer:
        """Return the tokenizer that `source` names or is.

        Args:
            source: a folder with a `tokenizer.json`, such a file, a loaded `tokenizers.Tokenizer`,
                a loaded fast transformers tokenizer, or a `Tokenizer`.
        Raises:
            TokenizerError: there is none, or it cannot be read.
        """
        if isinstance(source, cls):
            return source
        if isinstance(source, (str, Path)):
            return cls._from_path(Path(source))
        backend = getattr(source, "backend_tokenizer", None)
        if backend is not None:
            return cls._from_transformers(source, backend)
        if hasattr(source, "to_str"):
            return _of_loaded(source.to_str(), None, None, None)
        raise TokenizerError(
            f"a {type(source).__name__} is not a tokenizer; give a folder, a tokenizer.json, "
            "or a loaded tokenizer of tokenizers or transformers"
        )

    @classmethod
    def _from_path(cls, path: Path) -> Tokenizer:
        folder, file = (path, path / TOKENIZER_FILE) if path.is_dir() else (path.parent, path)
        if not file.is_file():
            raise TokenizerError(
                f"'{path}' has no {TOKENIZER_FILE}; load it once with transformers' AutoTokenizer "
                "and save it with save_pretrained to get one"
            )
        try:
            definition = file.read_text("utf-8")
            data = json.loads(definition)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise TokenizerError(f"'{file}' is not a tokenizer.json: {error}") from error
        config = read_json(folder / CONFIG_FILE)
        special = special_of({**read_json(folder / "special_tokens_map.json"), **config})
        template_file = folder / TEMPLATE_FILE
        template = config.get("chat_template")
        if template_file.is_file():
            template = template_file.read_text("utf-8")
        return cls(
            definition,
            special=special or guessed_special(data),
            chat_template=default_template(template),
            max_length=sane_length(config.get("model_max_length")),
            parsed=data,
        )

    @classmethod
    def _from_transformers(cls, source: Any, backend: Any) -> Tokenizer:
        special = {role: getattr(source, role, None) for role in ROLES}
        return _of_loaded(
            backend.to_str(),
            tuple((role, str(text)) for role, text in special.items() if text),
            default_template(getattr(source, "chat_template", None)),
            sane_length(getattr(source, "model_max_length", None)),
        )

    def __repr__(self) -> str:
        return (
            f"Tokenizer(vocab_size={self.vocab_size}, eos_token={self.special.get('eos_token')!r})"
        )

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def vocab_size(self) -> int:
        """The number of tokens, control tokens included."""
        return int(self._opening.get_vocab_size(with_added_tokens=True))

    @property
    def eos_id(self) -> int | None:
        """The id that ends a text, or None."""
        return self._role_id("eos_token")

    @property
    def bos_id(self) -> int | None:
        """The id that starts a text, or None."""
        return self._role_id("bos_token")

    @property
    def pad_id(self) -> int | None:
        """The id that fills up a row, or None."""
        return self._role_id("pad_token")

    @property
    def mask_id(self) -> int | None:
        """The id that stands where a token is hidden, or None."""
        return self._role_id("mask_token")

    @property
    def unknown_id(self) -> int | None:
        """The id that characters without a token get, or None."""
        return self._unknown_id

    def _role_id(self, role: str) -> int | None:
        text = self.special.get(role)
        return None if text is None else self.token_to_id(text)

    @cached_property
    def dialect(self) -> Dialect:
        """What formatters need to know of this tokenizer."""
        return Dialect(
            chat_template=self.chat_template,
            bos_token=self.special.get("bos_token"),
            eos_token=self.special.get("eos_token"),
            control_tokens=tuple(token.text for token in self.control),
            marks=tuple(token.text for token in self.marks),
        )

    @cached_property
    def opening_ids(self) -> tuple[int, ...]:
        """The ids this tokenizer itself puts before any text, such as a BOS; often none."""
        return self._frame[0]

    @cached_property
    def closing_ids(self) -> tuple[int, ...]:
        """The ids this tokenizer itself puts after any text, such as BERT's `[SEP]`; often none."""
        return self._frame[1]

    @cached_property
    def _frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids before and after any text, read off one that the tokenizer knows."""
        text = "a" if self._knows("a") else self.decode(self.plain_ids[-1:])
        encoding = self._opening.encode(text, add_special_tokens=True)
        mask = encoding.special_tokens_mask
        if 0 not in mask:
            return (), ()
        before, after = mask.index(0), mask[::-1].index(0)
        return tuple(encoding.ids[:before]), tuple(encoding.ids[len(mask) - after :])

    @cached_property
    def plain_ids(self) -> tuple[int, ...]:
        """The ids of all tokens that steer nothing, in order: what text can be made of."""
        every = self._opening.get_vocab(with_added_tokens=True).values()
        return tuple(sorted(token for token in every if token not in self._steering_ids))

    @cached_property
    def control_ids(self) -> tuple[int, ...]:
        """The ids of all tokens that steer the model, in order."""
        return tuple(sorted(self._control_ids))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over everything that decides which ids a text gets."""
        whole = json.dumps([self.definition, self.special, self.chat_template], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token's text, or None if there is no such token."""
        found = self._opening.token_to_id(token)
        return None if found is None else int(found)

    def id_to_token(self, token_id: int) -> str:
        """Return how the vocabulary writes a token, `<id>` for an id that it lacks."""
        found = self._opening.id_to_token(token_id)
        return f"<{token_id}>" if found is None else str(found)

    def is_control(self, token_id: int) -> bool:
        """Say whether an id is a control token's."""
        return token_id in self._control_ids

    def is_unknown(self, token_id: int) -> bool:
        """Say whether an id is what characters without a token get."""
        return token_id == self._unknown_id

    def ends_turn(self, token_id: int) -> bool:
        """Say whether an id can end a turn: the EOS, or a control token but the unknown one."""
        return token_id == self.eos_id or (
            token_id in self._control_ids and token_id != self._unknown_id
        )

    def encode(self, text: str, *, trusted: bool = False, opens: bool = True) -> list[int]:
        """Return the ids of one text; nothing is put before or after it."""
        return self.encode_spans([Span(text, trusted)], opens=opens)

    def unknown_in(self, text: str) -> list[str]:
        """Return the characters of a text, each once, for which there is no token."""
        return [char for char in dict.fromkeys(text) if not self._knows(char)]

    def encode_spans(self, spans: Sequence[Span], *, opens: bool) -> list[int]:
        """Return the ids of the spans' joined text.

        The text is encoded as one, so that tokens may cross from span to span; only control tokens
        that lie wholly in trusted text, and marks in text that is trusted or marked, are cut out first and
        become their own ids.

        Args:
            spans: pieces of one text, in order.
            opens: whether this is the start of a text; if not, no opening space is added.
        Raises:
            RecordError: a character has no token, nor has the tokenizer one for the unknown.
        """
        if self._ahead and (known := self._ahead.get((opens, *spans))) is not None:
            return list(known)
        return self._assembled(self._split_control(spans), opens=opens)

    def read_ahead(self, texts: Iterable[tuple[Sequence[Span], bool]]) -> None:
        """Encode at once what will be asked for one by one, in place of what was read ahead before.

        Args:
            texts: each text's spans, and whether they open it, as `encode_spans` will be given them.
                What is wrong with one is said when it is asked for.
        """
        if all(pieces.ways for pieces in self._pieces.values()):
            return
        split = {(opens, *spans): self._split_control(spans) for spans, opens in texts}
        plain: dict[bool, list[str]] = {True: [], False: []}
        for (opens, *_), parts in split.items():
            fresh = bool(opens)
            for part in parts:
                if isinstance(part, str) and part:
                    plain[fresh].append(part)
                    fresh = False
                elif isinstance(part, ControlToken):
                    fresh = self._respaces_after_control
        if self._continuing is self._opening:
            plain = {True: plain[True] + plain[False]}
        for fresh, wanted in plain.items():
            self._pieces[fresh].read_ahead(wanted)
        self._ahead = {}
        for key, parts in split.items():
            with contextlib.suppress(RecordError):
                self._ahead[key] = self._assembled(parts, opens=bool(key[0]))
        for pieces in self._pieces.values():
            pieces.read_ahead(())

    def _assembled(self, parts: Sequence[str | ControlToken], *, opens: bool) -> list[int]:
        ids: list[int] = []
        after_control = False
        for part in parts:
            if isinstance(part, ControlToken):
                ids.append(part.id)
            elif part:
                fresh = (opens and not ids) or (after_control and self._respaces_after_control)
                ids += self._encode_plain(part, opens=fresh)
            after_control = isinstance(part, ControlToken)
        return ids

    def owners(self, spans: Sequence[Span], *, opens: bool) -> NDArray[np.int64]:
        """Return which span each id of `encode_spans` is of: the one that it ends in, int64 [T].

        A token that spells a part of a character, as of an emoji or a Hangul syllable, is of the
        character's span.
        """
        text = "".join(span.text for span in spans)
        last: list[int] = []  # of each id, its last character's place in the text
        position = 0
        after_control = False
        for part in self._split_control(spans):
            written = part.text if isinstance(part, ControlToken) else part
            position = text.index(written, position)  # only white space is swallowed in between
            if isinstance(part, ControlToken):
                last.append(position + len(written) - 1)
            elif part:
                fresh = (opens and not last) or (after_control and self._respaces_after_control)
                last += self._last_characters(part, position, opens=fresh)
            position += len(written)
            after_control = isinstance(part, ControlToken)
        ends = np.cumsum([len(span.text) for span in spans])
        rising = np.maximum.accumulate(np.asarray(last, dtype=np.int64))
        return np.searchsorted(ends, rising, side="right")

    def _last_characters(self, text: str, start: int, *, opens: bool) -> list[int]:
        """Return where in a text the last character of each id stands, counted from a start.

        What is normalized before it is cut has other places; they are taken to be in proportion.
        """
        parts = self._parts(text, opens=opens)
        share = len(text) / max(1, sum(len(part) for part, _ in parts))
        return [
            start + min(len(text) - 1, int(share * (reading.start + max(begin, end - 1))))
            for reading in self._readings(text, opens=opens)
            for begin, end in reading.encoding.offsets
        ]

    def reopens_after(self, spans: Sequence[Span]) -> bool:
        """Say whether text behind the spans gets an opening space.

        Some tokenizers give it one after a control token; those that cut a text at white space do
        so after white space, which itself has no ids.
        """
        if not (self._respaces_after_control or self._respaces_words):
            return False
        written = [part for part in self._split_control(spans) if part]
        if not written:
            return False
        last = written[-1]
        if isinstance(last, ControlToken):
            return self._respaces_after_control
        return self._respaces_words and _SPACE.match(self._normalized(last)[-1:]) is not None

    def decode(self, ids: Iterable[int], *, skip_control: bool = True) -> str:
        """Return the text of some ids, without control tokens unless told otherwise."""
        kept = [token for token in ids if not (skip_control and token in self._control_ids)]
        return str(self._opening.decode(kept, skip_special_tokens=False))

    def with_special(self, role: str, token: str) -> Tokenizer:
        """Return a tokenizer in which a token has a role such as `pad_token`.

        A token that is not there yet is added as a control token behind all others.
        """
        if token not in self._control_by_text:
            import tokenizers

            backend = tokenizers.Tokenizer.from_str(self.definition)
            backend.add_special_tokens([tokenizers.AddedToken(token, special=True)])
            definition = backend.to_str()
        else:
            definition = self.definition
        return self._evolve(definition=definition, special={**self.special, role: token})

    def with_template(self, chat_template: str) -> Tokenizer:
        """Return a tokenizer with another chat template."""
        return self._evolve(chat_template=chat_template)

    def _evolve(self, **changes: Any) -> Tokenizer:
        parts: dict[str, Any] = {
            "definition": self.definition,
            "special": self.special,
            "chat_template": self.chat_template,
            "max_length": self.max_length,
            **changes,
        }
        return Tokenizer(parts.pop("definition"), **parts)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and the chat template into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TOKENIZER_FILE).write_text(self.definition, "utf-8")
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **self.special}
        config["clean_up_tokenization_spaces"] = False
        if self.max_length is not None:
            config["model_max_length"] = self.max_length
        if self.chat_template is not None:
            (folder / TEMPLATE_FILE).write_text(self.chat_template, "utf-8")
        text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
        (folder / CONFIG_FILE).write_text(text, "utf-8")

    @cached_property
    def _steering_pattern(self) -> re.Pattern[str] | None:
        return _any_of([*self.control, *self.marks])

    @cached_property
    def _mark_pattern(self) -> re.Pattern[str] | None:
        return _any_of(self.marks)

    @cached_property
    def _steering_by_text(self) -> dict[str, ControlToken]:
        return {token.text: token for token in (*self.marks, *self.control)}

    def _split_control(self, spans: Sequence[Span]) -> list[str | ControlToken]:
        parts: list[str | ControlToken] = []
        for run in _runs(spans):
            position = 0
            pattern = self._steering_pattern if run.trusted else None
            if run.marked and not run.trusted:
                pattern = self._mark_pattern
            if pattern is not None:
                for match in pattern.finditer(run.text):
                    parts.append(run.text[position : match.start()])
                    parts.append(self._steering_by_text[match.group()])
                    position = match.end()
            parts.append(run.text[position:])
        return parts if len(parts) == 1 else _swallow_space(_join_plain(parts))

    def _normalized(self, text: str) -> str:
        normalizer = self._continuing.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def _encode_plain(self, text: str, *, opens: bool) -> list[int]:
        """Return the ids of text in which no control token acts."""
        ids: list[int] = []
        for part, reader in self._parts(text, opens=opens):
            known = self._pieces[reader is self._opening].ids(part)
            if known is None:
                readings = self._unforged(part, reader)
                known = [token for reading in readings for token in reading.encoding.ids]
            ids += known
        return ids

    def _parts(self, text: str, *, opens: bool) -> list[tuple[str, tokenizers.Tokenizer]]:
        """Return the parts of a text that are read apart, each with what reads it."""
        if opens or not self._respaces_words:
            return [(text, self._opening if opens else self._continuing)]
        # Each word's space is made anew, so only the first word can lack one. What parts words may
        # be made by the normalizer: T5's writes a space for a zero-width one.
        text = self._normalized(text)
        space = _SPACE.search(text)
        end = len(text) if space is None else space.start()
        head = (text[:end], self._continuing)
        return [head, (text[end:], self._opening)] if text[end:].strip() else [head]

    def _unforged(self, text: str, backend: tokenizers.Tokenizer, start: int = 0) -> list[Reading]:
        """Read a text without a control token or a byte that it spells out.

        A Unigram vocabulary holds "</s>" and "<0x41>" as pieces of its own, and a normalizer makes
        them of full width characters too, so text that gives one is cut before its last character.
        """
        try:
            encoding = backend.encode(text, add_special_tokens=False)
        except Exception as error:  # the library raises a bare Exception
            raise RecordError("", self._without_tokens(text, error)) from error
        if self._forgeable.keys().isdisjoint(encoding.ids):
            return [Reading(encoding, start)]
        cuts = [
            end - 1
            for token_id, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if end - begin > 1 and self._forges(token_id, text[begin:end])
        ]
        if not cuts:
            return [Reading(encoding, start)]
        readings = self._unforged(text[: cuts[0]], backend, start)
        for begin, end in zip(cuts, [*cuts[1:], len(text)], strict=True):
            readings += self._readings(text[begin:end], opens=False, start=start + begin)
        return readings

    def _readings(self, text: str, *, opens: bool, start: int = 0) -> list[Reading]:
        readings = []
        for part, reader in self._parts(text, opens=opens):
            readings += self._unforged(part, reader, start)
            start += len(part)
        return readings

    def _knows(self, char: str) -> bool:
        try:
            ids = self._continuing.encode(char, add_special_tokens=False).ids
        except Exception:  # as in `_unforged`
            return False
        if self._unknown_id is not None:
            return self._unknown_id not in ids
        # A vocabulary may lack some bytes, as SmolLM2's does: they are left out without a word.
        if not ids:
            return not self._normalized(char)
        return self._opening.decode(ids).count(REPLACEMENT) == char.count(REPLACEMENT)

    def _without_tokens(self, text: str, error: Exception) -> str:
        """Put into words why a text has no ids."""
        chars = self.unknown_in(text)
        if not chars:
            return f"the tokenizer cannot read it: {error}"
        named = ", ".join(f"{char!r} (U+{ord(char):04X})" for char in chars[:MOST_CHARACTERS])
        more = f" and {len(chars) - MOST_CHARACTERS} more" if chars[MOST_CHARACTERS:] else ""
        at = text.index(chars[0])
        return (
            f"the tokenizer has not learned the characters {named}{more}; the first stands in "
            f"{text[max(0, at - 12) : at + 12]!r}; learn a tokenizer from text that has them, or "
            "one that reads such characters as unknown (train_tokenizer(unknown='token'), "
            "--tokenizer char:unk)"
        )

    def _forges(self, token_id: int, text: str) -> bool:
        """Say whether plain text came out as what it spells, not as what it is.

        An unknown character is rightly the unknown token, and rightly written in bytes.
        """
        if token_id == self._unknown_id or token_id in self._bytes:
            return self._normalized(text).strip() == self._forgeable[token_id]
        return token_id in self._forgeable

    def _id_of_unknown(self, model: Mapping[str, Any]) -> int | None:
        """Return the id that characters without a token get; Unigram gives it, others its text."""
        if model.get("unk_id") is not None:
            return int(model["unk_id"])
        return self.token_to_id(model["unk_token"]) if model.get("unk_token") else None


@lru_cache(maxsize=2)
def _of_loaded(
    definition: str,
    special: tuple[tuple[str, str], ...] | None,
    chat_template: str | None,
    max_length: int | None,
) -> Tokenizer:
    """Return the tokenizer of a loaded object, the same one until the object says otherwise.

    A loaded object may be given with every record, and to build a large vocabulary takes a second.
    """
    return Tokenizer(
        definition,
        special=guessed_special(json.loads(definition)) if special is None else dict(special),
        chat_template=chat_template,
        max_length=max_length,
    )


def _steering(token: Mapping[str, Any]) -> ControlToken:
    return ControlToken(token["content"], token["id"], token["lstrip"], token["rstrip"])


def _any_of(tokens: Iterable[ControlToken]) -> re.Pattern[str] | None:
    """Return what finds the tokens in a text, the longest first; None if there is none."""
    texts = sorted((token.text for token in tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None


def _runs(spans: Sequence[Span]) -> Iterable[Span]:
    """Yield the joined text of neighbours in which the same tokens act."""
    if len(spans) == 1:  # as most texts are, so that they are not copied
        yield from (span for span in spans if span.text)
        return
    for (trusted, marked), run in itertools.groupby(
        (span for span in spans if span.text), key=lambda span: (span.trusted, span.marked)
    ):
        yield Span("".join(span.text for span in run), trusted, marked)


def _join_plain(parts: Iterable[str | ControlToken]) -> list[str | ControlToken]:
    joined: list[str | ControlToken] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def _swallow_space(parts: list[str | ControlToken]) -> list[str | ControlToken]:
    """Drop the white space that control tokens take with them, as `tokenizers` does."""
    for index, part in enumerate(parts):
        if isinstance(part, ControlToken):
            before = parts[index - 1] if index else None
            after = parts[index + 1] if index + 1 < len(parts) else None
            if part.lstrip and isinstance(before, str):
                parts[index - 1] = before.rstrip()
            if part.rstrip and isinstance(after, str):
                parts[index + 1] = after.lstrip()
    return parts
