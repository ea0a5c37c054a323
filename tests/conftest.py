"""A tokenizer to check by eye, and where the shared tokenizers and data lie."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from lmkit.tokenizing import Tokenizer

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "<pad>")
SHARED = Path(__file__).parents[1].parent / "shared"


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


@pytest.fixture
def toy() -> Tokenizer:
    return Tokenizer(toy_backend().to_str(), special={"eos_token": "<|endoftext|>"})


@pytest.fixture
def toy_with_bos() -> Tokenizer:
    """A toy that puts `<s>` before every text itself, as Llama's tokenizer does."""
    from tokenizers import processors

    backend = toy_backend()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    special = {"bos_token": "<s>", "eos_token": "<|endoftext|>"}
    return Tokenizer(backend.to_str(), special=special)


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared tokenizers and data are not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def load_shared() -> Callable[[str], Tokenizer]:
    """Load a shared tokenizer once; BERT's has no EOS, so it ends answers with `[SEP]`."""
    loaded: dict[str, Tokenizer] = {}

    def load(name: str) -> Tokenizer:
        if not SHARED.is_dir():
            pytest.skip("the shared tokenizers are not on this machine")
        if name not in loaded:
            found = Tokenizer.load(SHARED / "tokenizers" / name)
            loaded[name] = found if found.eos_id is not None else found.with_special(
                "eos_token", "[SEP]"
            )
        return loaded[name]

    return load


@pytest.fixture
def shared_rows(shared: Path) -> Callable[[str, int], list[dict[str, Any]]]:
    """Return the first rows of a shared data file."""

    def rows(name: str, count: int) -> list[dict[str, Any]]:
        def lines() -> Iterator[str]:
            with (shared / "data" / name).open(encoding="utf-8") as file:
                for _, line in zip(range(count), file, strict=False):
                    yield line

        return [json.loads(line) for line in lines()]

    return rows
