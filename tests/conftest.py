"""A tokenizer to check by eye, and where the shared tokenizers and data lie."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import browser  # noqa: F401  # one for all modules: a second would not start
from tokenizers import processors
from toys import toy_backend

from lmkit.tokenizing import Tokenizer

collect_ignore = ["typing"]  # for type checkers alone: see test_typing.py

SHARED = Path(__file__).parents[1].parent / "shared"


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over what is imported by now.

    That is millions of torch's objects, in each collection of an export: a sixth of its time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests prepare out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def toy() -> Tokenizer:
    return Tokenizer(toy_backend().to_str(), special={"eos_token": "<|endoftext|>"})


@pytest.fixture(scope="session")
def toy_with_bos() -> Tokenizer:
    """A toy that puts `<s>` before every text itself, as Llama's tokenizer does."""
    backend = toy_backend()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    special = {"bos_token": "<s>", "eos_token": "<|endoftext|>"}
    return Tokenizer(backend.to_str(), special=special)


@pytest.fixture(scope="session")
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
            loaded[name] = (
                found if found.eos_id is not None else found.with_special("eos_token", "[SEP]")
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


@pytest.fixture(scope="session", autouse=True)
def _untimed() -> Iterator[None]:
    """Measure no bundle's speed where no test looks at it: it takes processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            from lmkit.export import bundle
        except ImportError:  # the runtime's tests have no torch
            yield
            return
        patch.setattr(bundle, "speeds", lambda bundle, on_progress: {})
        yield
