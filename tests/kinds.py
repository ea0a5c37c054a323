"""One small tokenizer of every kind, with what each declares to make of a text.

A `Kind` reads a text in its own way: byte-level ones give every character back, others normalise it
first or do not know some characters. `Kind.reads` says so independently of `lmkit.tokenizing`, so
tests can say what must come back.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as Backend
from toys import BERT_CONTROL, llama

from lmkit.chat import CHATML
from lmkit.tokenizing import Tokenizer
from lmkit.vocabulary import train_tokenizer

SHARED = Path(__file__).parents[1].parent / "shared" / "tokenizers"
SHARED_NAMES = ("gpt2", "qwen2", "smollm2", "t5", "bert-base-uncased", "koelectra-wordpiece")

TEXT = (
    "What is a film? A film is a moving picture, 12 of them, don't you know!\n"
    "영화는 정말 좋았다. 한국어 문장입니다.\n  Two spaces: <s> [SEP] </s> {x}\n"
) * 4
SIGNS = "".join(map(chr, range(32, 127))) + "\té\u0301\u200b\u200d👩👧❤\ufe0fالس질문답"

THINKING = CHATML.replace("assistant\\n' }}", "assistant\\n<think>\\n' }}")


@attrs.frozen
class Kind:
    """A tokenizer and what it declares to make of text.

    Attributes:
        tokenizer: it, with an EOS.
        normal: what it makes of a piece of text first.
        words: whether white space is no more than what parts words.
        spaces: whether white space comes back at all; WordPiece's decoder writes its own.
    """

    tokenizer: Tokenizer
    normal: Callable[[str], str] = str
    words: bool = False
    spaces: bool = True

    def same(self, found: str, *parts: str) -> bool:
        """Say whether a decoded text is what the kind declares to make of pieces of a text.

        One space more or less may open the text: some put one there, and SentencePiece's decoders
        drop one.
        """
        expected = "".join(map(self.normal, parts))
        if not self.spaces:
            return "".join(found.split()) == "".join(expected.split())
        if self.words:
            return " ".join(found.split()) == " ".join(expected.split())
        return expected in (found, f" {found}", found.removeprefix(" "))

    def knows(self, *parts: str) -> bool:
        """Say whether every character has a token."""
        return not self.tokenizer.unknown_in("".join(parts)) and not any(
            self.tokenizer.is_unknown(token) for part in parts for token in self._ids(part)
        )

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def acting(self, ids: Iterable[int]) -> list[str]:
        """Return the control tokens and marks among some ids, but for the unknown one."""
        names = {token.id: token.text for token in (*self.tokenizer.control, *self.tokenizer.marks)}
        return [
            names[token] for token in ids if token in names and not self.tokenizer.is_unknown(token)
        ]


def _chatty(backend: Backend, **special: str) -> Tokenizer:
    return Tokenizer(backend.to_str(), special=special, chat_template=CHATML)


def _byte_level(*, prefix: bool = False) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT], trainer)
    return backend


def _roberta() -> Tokenizer:
    """Byte-level BPE that puts a space before a text and `<s>`, `</s>` around it."""
    backend = _byte_level(prefix=True)
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    return _chatty(
        backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", mask_token="<mask>"
    )


def _added() -> Tokenizer:
    """Byte-level BPE with added tokens of every sort: reasoning marks, runs of spaces, a word."""
    backend = _byte_level()
    backend.add_special_tokens(
        [
            AddedToken("<|left|>", lstrip=True, special=True),
            AddedToken("<|right|>", rstrip=True, special=True),
            AddedToken("<|norm|>", normalized=True, special=True),
        ]
    )
    backend.add_tokens(
        [
            *(AddedToken(token, normalized=False) for token in ("<think>", "</think>")),
            *(AddedToken(" " * count, normalized=False) for count in (2, 4, 8)),
            AddedToken("<|tool|>", normalized=False),
            AddedToken("lmkit"),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return Tokenizer(
        backend.to_str(),
        special={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
        chat_template=THINKING,
    )


def _llama(kind: str) -> Tokenizer:
    backend = llama(kind)
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return _chatty(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _gemma() -> Tokenizer:
    """BPE over `▁` with bytes for unknown characters and no opening space, as Gemma's."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<|im_start|>", "<|im_end|>"]
    letters = ["▁", "\n", *map(chr, range(33, 127))]
    merges = [("▁", "▁"), ("h", "i"), ("▁", "hi"), ("<", "e"), ("o", "s"), ("<e", "os")]
    merges += [("<eos", ">")]  # so that the EOS is an ordinary piece, too
    pieces = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    pieces += [left + right for left, right in merges]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    backend = Backend(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in control]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return _chatty(
        backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


def _t5() -> Tokenizer:
    """Unigram of T5's make: NFKC, cut at white space, each word opened by `▁`, `</s>` a piece."""
    control = ["<pad>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<mask>"]
    letters = ["▁", *map(chr, range(33, 127)), *sorted({c for c in TEXT if ord(c) > 127})]
    words = ["▁a", "▁film", "▁is", "the", "▁<", "im"]
    scored = [(piece, -2.0) for piece in control]
    scored += [(piece, -4.0) for piece in words] + [(piece, -6.0) for piece in letters]
    backend = Backend(models.Unigram(scored, unk_id=2, byte_fallback=False))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex("[\u200b\u00ad\x00-\x08]"), "")]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.add_special_tokens(control)
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return _chatty(
        backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>"
    )


def _bert() -> Tokenizer:
    """WordPiece of BERT's make: lower case, no accents, every letter known."""
    letters = sorted({c.lower() for c in TEXT if not c.isspace()} | set(map(chr, range(33, 127))))
    jamo = sorted(set(unicodedata.normalize("NFD", "".join(letters))) - set(letters))
    alphabet = [c for c in [*letters, *jamo] if not c.isupper()]
    pieces = [*BERT_CONTROL, *alphabet, *(f"##{c}" for c in alphabet), "film", "##s", "[sep]"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    backend = Backend(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.add_special_tokens([*BERT_CONTROL, "<|im_start|>", "<|im_end|>"])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return _chatty(
        backend,
        eos_token="[SEP]",
        sep_token="[SEP]",
        cls_token="[CLS]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    )


def _words() -> Tokenizer:
    """Whole words and single signs, of which a control token is one, too."""
    words = sorted({*TEXT.split(), *map(chr, range(33, 127))})
    vocabulary = {text: index for index, text in enumerate(["<unk>", "</s>", "<|im_end|>", *words])}
    backend = Backend(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["<unk>", "</s>", "<|im_end|>", "<|im_start|>"])
    return _chatty(backend, eos_token="</s>", unk_token="<unk>")


def _learned(kind: str, size: int, **options: str) -> Tokenizer:
    found = train_tokenizer(
        kind=kind, data=[{"text": TEXT}, {"text": SIGNS}], vocab_size=size, **options
    )
    found = found if found.eos_id is not None else found.with_special("eos_token", "[SEP]")
    return found if found.chat_template else found.with_template(CHATML)


def _normalised(tokenizer: Tokenizer) -> Callable[[str], str]:
    """Return what a tokenizer's own normalizer makes of a text."""
    normalizer = Backend.from_str(tokenizer.definition).normalizer
    return lambda text: normalizer.normalize_str(text)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _spaced(text: str) -> str:
    """Return a text as SentencePiece gives it back, to which `▁` is a space."""
    return text.replace("▁", " ")


def _worded(tokenizer: Tokenizer) -> Kind:
    normal = _normalised(tokenizer)
    return Kind(tokenizer, lambda text: _spaced(normal(text)), words=True)


def _pieced(tokenizer: Tokenizer) -> Kind:
    return Kind(tokenizer, _normalised(tokenizer), spaces=False)


def _shared(name: str) -> Kind:
    found = Tokenizer.load(SHARED / name)
    if found.eos_id is None:
        found = found.with_special("eos_token", "[SEP]")
    if name in ("gpt2", "qwen2", "smollm2"):
        return Kind(found)
    return _worded(found) if name == "t5" else _pieced(found)


_BUILT: dict[str, Callable[[], Kind]] = {
    "bpe": lambda: Kind(_learned("bpe", 300)),
    "bpe with a space": lambda: Kind(_roberta()),
    "bpe with added tokens": lambda: Kind(_added()),
    **{
        f"llama {scheme}": functools.partial(lambda scheme: Kind(_llama(scheme), _spaced), scheme)
        for scheme in ("legacy", "first", "always", "never")
    },
    "gemma": lambda: Kind(_gemma(), _spaced),
    "t5 of letters": lambda: _worded(_t5()),
    "unigram": lambda: Kind(_learned("unigram", 500), lambda text: _spaced(_nfc(text))),
    "bert of letters": lambda: _pieced(_bert()),
    "wordpiece": lambda: Kind(_learned("wordpiece", 800), _nfc, spaces=False),
    "words": lambda: _pieced(_words()),
    "char": lambda: Kind(_learned("char", 300)),
    "char with unknown": lambda: Kind(_learned("char", 300, unknown="token")),
}
BUILT = tuple(_BUILT)
KINDS = (*BUILT, *SHARED_NAMES) if SHARED.is_dir() else BUILT


@functools.cache
def kind(name: str) -> Kind:
    """Return a kind by its name, built once."""
    return _BUILT[name]() if name in _BUILT else _shared(name)
