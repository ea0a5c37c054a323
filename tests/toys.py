"""Tokenizers to check by eye, small enough to be built in code."""

from __future__ import annotations

from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers import Tokenizer as Backend

from lmkit.tokenizing import Tokenizer

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "<pad>")


def toy_backend() -> Backend:
    """Return a tokenizer whose token for a character is its code point, behind the control tokens.

    Printable ASCII, the newline and Hangul syllables are known; there are no merges, so what a text
    becomes can be read off it.
    """
    letters = ["\n", *map(chr, range(32, 127)), *map(chr, range(0xAC00, 0xD7A4))]
    vocabulary = {text: index for index, text in enumerate([*CONTROL, "?unknown?", *letters])}
    backend = Backend(models.WordLevel(vocabulary, unk_token="?unknown?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(text, special=True) for text in CONTROL])
    return backend


def llama(kind):
    """Return a small tokenizer of Llama 2's make: a `▁` for a space, bytes for unknown characters.

    `legacy` puts the opening `▁` before every text that a control token starts or ends, as the
    tokenizers converted before 2024 do; `first` and `always` are the two later ways to say it.
    """
    letters = ["▁", "\n", *map(chr, range(33, 127))]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges = [("h", "i"), ("▁", "hi"), ("▁", "▁"), ("y", "o"), ("▁", "yo")]
    pieces += [left + right for left, right in merges]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    backend = Backend(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    if kind == "legacy":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    backend.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in ("<unk>", "<s>", "</s>")]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return backend


LLAMAS = ("legacy", "first", "always")


BERT_CONTROL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = ("영화", "##는", "##가", "정말", "좋", "##았다", "a", "film", "##s", "good", "!", ",")


def wordpiece() -> Tokenizer:
    """Return a small tokenizer of BERT's make."""
    vocabulary = {piece: index for index, piece in enumerate([*BERT_CONTROL, *PIECES])}
    backend = Backend(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(strip_accents=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([AddedToken(text, special=True) for text in BERT_CONTROL])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    return Tokenizer(backend.to_str(), special={**special, "sep_token": "[SEP]"})
