"""Train a tokenizer on the user's own data, with the `tokenizers` library alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lmkit.chat import CHATML
from lmkit.errors import TokenizerError, UnknownName
from lmkit.records import Data, read
from lmkit.tokenizing import Tokenizer

if TYPE_CHECKING:
    import tokenizers

END, PAD, UNKNOWN = "<|endoftext|>", "<|pad|>", "<|unk|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"  # so that chats work from scratch too
CONTROL = (END, PAD, UNKNOWN, TURN_START, TURN_END)

DEFAULT_SIZE = 8000


def train_tokenizer(*, kind: str, data: Data, vocab_size: int = DEFAULT_SIZE) -> Tokenizer:
    """Return a tokenizer learned from data.

    It ends texts with `<|endoftext|>`, pads with `<|pad|>`, and carries a ChatML template.

    Args:
        kind: `bpe` (bytes, so that nothing is unknown) or `char` (one character, one token).
        data: anything that `train` takes; all text in the records is learned from.
        vocab_size: the most tokens, control tokens included; `char` needs as many as there are
            characters and takes no more than this many, the most frequent first.
    Raises:
        UnknownName: there is no such kind.
        TokenizerError: the size is too small for the kind.
    """
    if kind not in _KINDS:
        raise UnknownName("kind of tokenizer", kind, _KINDS)
    if vocab_size <= len(CONTROL):
        raise TokenizerError(f"vocab_size is {vocab_size}; {len(CONTROL)} go to control tokens")
    backend = _KINDS[kind](texts_in(read(data)), vocab_size)
    return Tokenizer(
        backend.to_str(),
        special={"eos_token": END, "bos_token": END, "pad_token": PAD, "unk_token": UNKNOWN},
        chat_template=CHATML,
    )


def parse_tokenizer(text: str, data: Data) -> Tokenizer:
    """Return the tokenizer that a command line names: a folder, or `bpe:8000`, `char`.

    Raises:
        TokenizerError: it is neither, or the size is no number.
    """
    kind, colon, size = text.partition(":")
    if kind not in _KINDS:
        return Tokenizer.load(text)
    if colon and not size.isdigit():
        raise TokenizerError(f"'{text}' should end in a number of tokens, such as {kind}:8000")
    return train_tokenizer(kind=kind, data=data, vocab_size=int(size) if colon else DEFAULT_SIZE)


def texts_in(records: Iterable[Any]) -> Iterator[str]:
    """Yield every text in some records, however deep."""
    for part in records:
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping):
            yield from texts_in(part.values())
        elif isinstance(part, (list, tuple)):
            yield from texts_in(part)


def _bpe(texts: Iterator[str], vocab_size: int) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(alphabet) + len(CONTROL)
    if vocab_size < smallest:
        raise TokenizerError(f"vocab_size is {vocab_size}; byte-level BPE needs {smallest} or more")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(CONTROL),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _char(texts: Iterator[str], vocab_size: int) -> tokenizers.Tokenizer:
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend

    backend = Backend(models.WordLevel(unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, special_tokens=list(CONTROL), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return backend


_KINDS: dict[str, Callable[[Iterator[str], int], tokenizers.Tokenizer]] = {
    "bpe": _bpe,
    "char": _char,
}
