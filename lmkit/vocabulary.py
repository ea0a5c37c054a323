"""Train a tokenizer on the user's own data, with the `tokenizers` library alone."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from lmkit.chat import CHATML
from lmkit.errors import TokenizerError, UnknownName
from lmkit.records import STOP, BadRows, Row, good_rows, nothing_in
from lmkit.sources import Source
from lmkit.tokenizing import Dialect, Tokenizer

if TYPE_CHECKING:
    import tokenizers

    from lmkit.mixing import Mixture
    from lmkit.task import Task

    Texts = Iterator[str]
    Learn = Callable[[Texts, int, tuple[str, ...]], tokenizers.Tokenizer]

END, PAD, UNKNOWN = "<|endoftext|>", "<|pad|>", "<|unk|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"  # so that chats work from scratch too
CONTROL = (END, PAD, UNKNOWN, TURN_START, TURN_END)

DEFAULT_SIZE = 8000
UNKNOWNS = ("error", "token")  # what becomes of a character that was not in the data

LONGEST_WORD = 1000  # characters; a longer word is unknown to wordpiece
_BYTES = 256
_SPACE = "▁"  # how SentencePiece writes a space


def train_tokenizer(
    *,
    kind: str,
    data: Any,
    vocab_size: int = DEFAULT_SIZE,
    unknown: str = "error",
    task: Task | Mixture | str | None = None,
    on_bad_row: str = STOP,
) -> Tokenizer:
    """Return a tokenizer learned from data.

    - `bpe`: pieces of bytes, so that nothing is unknown.
    - `char`: one character, one token.
    - `wordpiece`: BERT's pieces of words, for masked models. A text is framed by `[CLS]` and
      `[SEP]`; a word with a character that was not learned is `[UNK]`. Text becomes NFC, in which
      a Hangul syllable is one character, and white space between words one space.
    - `unigram`: SentencePiece's pieces, for T5 and its like. A text is closed by `</s>`; what no
      piece covers is written in bytes, so that nothing is unknown. Text becomes NFC and loses a
      space that it starts with.

    The first two end texts with `<|endoftext|>`, pad with `<|pad|>`, and carry a ChatML template.

    Args:
        kind: one of these.
        data: anything that `train` takes. Without a task all text in the records is learned from,
            a .txt file's line ends included.
        vocab_size: the most tokens, control tokens included; `char` takes no more than there are
            characters.
        unknown: what `char` does with a character that it has not learned: `error` refuses the
            text and names the character, `token` reads it as `<|unk|>`. Only with `token` may there
            be more characters than `vocab_size`; then the most frequent are learned.
        task: what the tokenizer is for: learned from is then the text that the task makes of the
            records, with what it puts around them (such as `질문: `) and without what it leaves out.
        on_bad_row: `stop` refuses data with rows that cannot be read, `skip` leaves them out.
    Raises:
        UnknownName: there is no such kind, or no such way with the unknown.
        TokenizerError: the size is too small for the kind.
    """
    if kind not in _KINDS:
        raise UnknownName("kind of tokenizer", kind, _KINDS)
    if unknown not in UNKNOWNS:
        raise UnknownName("way with unknown characters", unknown, UNKNOWNS)
    if unknown == "token" and kind != "char":
        raise TokenizerError(
            f"unknown='token' is for char; {kind} has its own way with the unknown"
        )
    chosen = _CHAR_WITH_UNKNOWN if unknown == "token" else _KINDS[kind]
    if vocab_size <= len(chosen.control):
        raise TokenizerError(
            f"vocab_size is {vocab_size}; {len(chosen.control)} go to control tokens"
        )
    bad = BadRows(on_bad_row)
    if task is None:
        texts = texts_in(_all_rows(Source.open(data, whole=True), bad))
    else:
        texts = _task_texts(task, data, chosen, bad)
    backend = chosen.learn(texts, vocab_size, chosen.control)
    return Tokenizer(backend.to_str(), special=chosen.special, chat_template=chosen.chat_template)


def parse_tokenizer(
    text: str, data: Any, task: Task | Mixture | None = None, *, on_bad_row: str = STOP
) -> Tokenizer:
    """Return the tokenizer that a command line names: a folder, or `bpe:8000`, `char`, `char:unk`.

    Args:
        text: what was typed.
        data: what a new one is learned from; see `train_tokenizer`.
        task: what it is for.
        on_bad_row: as for `train_tokenizer`.
    Raises:
        TokenizerError: it is neither, or the size is no number.
    """
    kind, *options = text.split(":")
    if kind not in _KINDS:
        return Tokenizer.load(text)
    settings: dict[str, Any] = {}
    for option in options:
        if option == "unk" and kind == "char":
            settings["unknown"] = "token"
        elif option.isdigit():
            settings["vocab_size"] = int(option)
        else:
            also = ", or in unk, such as char:unk" if kind == "char" else ""
            raise TokenizerError(
                f"'{text}' should end in a number of tokens, such as {kind}:8000{also}"
            )
    return train_tokenizer(kind=kind, data=data, task=task, on_bad_row=on_bad_row, **settings)


def _all_rows(source: Source, bad: BadRows) -> Iterator[Row]:
    """Yield the rows of a source, of which there is one at least."""
    rows = good_rows(source.rows(), bad)
    first = next(rows, None)
    if first is None:
        bad.end()
        raise nothing_in(source.name, bad.errors[0] if bad.errors else None)
    yield first
    yield from rows
    bad.end()


def _task_texts(task: Task | Mixture | str, data: Any, kind: _Kind, bad: BadRows) -> Texts:
    """Yield the training text of every record, in pieces between control tokens."""
    from lmkit.collating import Stream
    from lmkit.encoding import each
    from lmkit.mixing import by_task, tasks_of
    from lmkit.reading import stream_for
    from lmkit.registry import get_task

    what = get_task(task)
    dialect = Dialect(
        chat_template=kind.chat_template,
        bos_token=kind.special.get("bos_token"),
        eos_token=kind.special.get("eos_token"),
        control_tokens=kind.control,
    )
    control = re.compile("|".join(map(re.escape, kind.control)))
    for one, source in zip(tasks_of(what), by_task(what, data, option="data"), strict=True):
        render = functools.partial(one.formatter.segments, dialect=dialect)
        found = Source.open(source, whole=isinstance(one.collator, Stream))
        for segments in each(stream_for(one, found, bad), render, on_bad_row=bad):
            text = "".join(segment.text for segment in segments)
            yield from filter(None, control.split(text))
        bad.end()


def texts_in(records: Iterable[Any]) -> Iterator[str]:
    """Yield every text in some records, however deep."""
    for part in records:
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping):
            yield from texts_in(part.values())
        elif isinstance(part, (list, tuple)):
            yield from texts_in(part)


def _bpe(texts: Texts, vocab_size: int, control: tuple[str, ...]) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(alphabet) + len(control)
    if vocab_size < smallest:
        raise TokenizerError(f"vocab_size is {vocab_size}; byte-level BPE needs {smallest} or more")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(control),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _char(texts: Texts, vocab_size: int, control: tuple[str, ...]) -> tokenizers.Tokenizer:
    """Learn characters; where `UNKNOWN` is no control token, others cannot be encoded at all."""
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    room = vocab_size - len(control)
    if len(counts) > room and UNKNOWN not in control:
        raise TokenizerError(
            f"vocab_size is {vocab_size}; {len(counts)} characters and {len(control)} control "
            f"tokens need {len(counts) + len(control)}, unless the rarest are read as unknown: "
            "unknown='token' (--tokenizer char:unk)"
        )
    letters = sorted(counts, key=lambda char: (-counts[char], char))[:room]
    vocabulary = {text: index for index, text in enumerate([*control, *letters])}
    backend = Backend(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(control))
    return backend


def _wordpiece(texts: Texts, vocab_size: int, control: tuple[str, ...]) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    backend = Backend(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD))
    backend.normalizer = normalizers.NFC()  # NFD, as BERT has it, takes Hangul syllables apart
    # Cut at white space alone: a text cut at punctuation too would come back with spaces there.
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=list(control),
        # A character may open a word or continue one, so half of the room goes to characters.
        limit_alphabet=max(1, (vocab_size - len(control)) // 4),
        continuing_subword_prefix="##",
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return backend


def _unigram(texts: Texts, vocab_size: int, control: tuple[str, ...]) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    smallest = _BYTES + len(control) + 1
    if vocab_size < smallest:
        raise TokenizerError(f"vocab_size is {vocab_size}; unigram needs {smallest} or more")
    backend = Backend(models.Unigram())
    backend.normalizer = normalizers.NFC()
    spaces = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="first")
    lines = pre_tokenizers.Split("\n", behavior="isolated")  # no piece goes over a line's end
    backend.pre_tokenizer = pre_tokenizers.Sequence([lines, spaces])
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - _BYTES,
        special_tokens=list(control),
        unk_token="<unk>",
        show_progress=False,
    )
    try:
        backend.train_from_iterator(texts, trainer)
    except Exception as error:  # the library raises a bare Exception
        raise TokenizerError(
            f"vocab_size is {vocab_size}, of which {_BYTES} are bytes and {len(control)} control "
            f"tokens; the rest is too little for unigram: {error}"
        ) from error
    backend = Backend.from_str(json.dumps(_with_bytes(json.loads(backend.to_str()), len(control))))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>",
        pair="$A </s> $B </s>",
        special_tokens=[("</s>", backend.token_to_id("</s>"))],
    )
    return backend


def _with_bytes(definition: dict[str, Any], n_control: int) -> dict[str, Any]:
    """Return a Unigram tokenizer's definition with a piece for each byte behind the control tokens.

    Source: SentencePiece's byte_fallback, whose byte pieces are `<0x00>` to `<0xFF>` with score 0.
    """
    pieces = definition["model"]["vocab"]
    pieces[n_control:n_control] = [[f"<0x{byte:02X}>", 0.0] for byte in range(_BYTES)]
    definition["model"]["byte_fallback"] = True
    return definition


@attrs.frozen(kw_only=True)
class _Kind:
    """A kind of tokenizer: how it is learned, and what its control tokens are for."""

    learn: Learn
    control: tuple[str, ...]
    special: Mapping[str, str]
    chat_template: str | None = None


_ENDED = {"eos_token": END, "bos_token": END, "pad_token": PAD}
_CHAR_WITH_UNKNOWN = _Kind(
    learn=_char,
    control=CONTROL,
    special={**_ENDED, "unk_token": UNKNOWN},
    chat_template=CHATML,
)
_KINDS = {
    "bpe": attrs.evolve(_CHAR_WITH_UNKNOWN, learn=_bpe),
    "char": attrs.evolve(
        _CHAR_WITH_UNKNOWN,
        control=tuple(token for token in CONTROL if token != UNKNOWN),
        special=_ENDED,
    ),
    "wordpiece": _Kind(
        learn=_wordpiece,
        control=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        special={
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        },
    ),
    "unigram": _Kind(
        learn=_unigram,
        control=("<pad>", "</s>", "<unk>"),
        special={"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    ),
}
