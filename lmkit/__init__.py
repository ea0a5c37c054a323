"""lmkit: tasks for language models, from a record to a deployed answer.

A `Task` says once how a record becomes text and which part of it the model must learn. Training
ids and labels, the prompt, the exported bundle and the way its answer is read follow from it.

Names load on first use: importing lmkit imports nothing else, and never torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lmkit.adapters import lora, prompt_tuning
    from lmkit.chaining import chain
    from lmkit.chat import Chat
    from lmkit.collating.blocks import BlockCollator
    from lmkit.collating.causal import CausalCollator
    from lmkit.collating.masked import MaskedCollator
    from lmkit.collating.seq2seq import Seq2SeqCollator
    from lmkit.decoding import Answer
    from lmkit.decoding.fills import FillMaskDecoder
    from lmkit.decoding.labels import LabelDecoder
    from lmkit.decoding.text import TextDecoder
    from lmkit.encoding import Encoded, encode, prompt_ids
    from lmkit.errors import LmkitError
    from lmkit.evaluating import evaluate
    from lmkit.export.bundle import export
    from lmkit.family import Family
    from lmkit.formatting import Segment, context, target
    from lmkit.generation import Generation
    from lmkit.hooks import hookimpl
    from lmkit.losses import keytoken_weighted
    from lmkit.metrics import ExactMatch
    from lmkit.mixing import mix
    from lmkit.previewing.looking import preview
    from lmkit.registry import get_task, plugins, tasks
    from lmkit.runtime.opening import load
    from lmkit.scratch import scratch
    from lmkit.task import Task
    from lmkit.tokenizing import Tokenizer
    from lmkit.train.run import train
    from lmkit.vocabulary import train_tokenizer

_HOMES = {
    "Answer": "decoding",
    "BlockCollator": "collating.blocks",
    "CausalCollator": "collating.causal",
    "Chat": "chat",
    "Encoded": "encoding",
    "ExactMatch": "metrics",
    "Family": "family",
    "FillMaskDecoder": "decoding.fills",
    "Generation": "generation",
    "LabelDecoder": "decoding.labels",
    "LmkitError": "errors",
    "MaskedCollator": "collating.masked",
    "Segment": "formatting",
    "Seq2SeqCollator": "collating.seq2seq",
    "Task": "task",
    "TextDecoder": "decoding.text",
    "Tokenizer": "tokenizing",
    "chain": "chaining",
    "context": "formatting",
    "encode": "encoding",
    "evaluate": "evaluating",
    "export": "export.bundle",
    "get_task": "registry",
    "hookimpl": "hooks",
    "keytoken_weighted": "losses",
    "load": "runtime.opening",
    "lora": "adapters",
    "mix": "mixing",
    "plugins": "registry",
    "preview": "previewing.looking",
    "prompt_ids": "encoding",
    "prompt_tuning": "adapters",
    "scratch": "scratch",
    "target": "formatting",
    "tasks": "registry",
    "train": "train.run",
    "train_tokenizer": "vocabulary",
}

# Names that earlier versions had here, and where they are to be found; see docs/compatibility.md.
_MOVED = {
    "Collator": "collating",
    "Decoder": "decoding",
    "Formatter": "formatting",
    "IGNORE": "encoding",
    "Template": "formatting",
    "Usage": "decoding",
}

__all__ = [*sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None and name in _MOVED:
        return _moved(name)
    if home is None:
        raise AttributeError(f"module 'lmkit' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"lmkit.{home}"), name)
    globals()[name] = found
    return found


def _moved(name: str) -> Any:
    from lmkit.deprecating import deprecated

    place = f"lmkit.{_MOVED[name]}"
    deprecated(f"lmkit.{name}", since="0.1", gone="0.3", instead=f"{place}.{name}")
    return getattr(importlib.import_module(place), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


class _Package(ModuleType):
    """Keeps `lmkit.train`, `lmkit.export` and `lmkit.plugins` the functions that they name.

    The import system binds a folder's name in its package when the folder is first imported, which
    would replace the public function of the same name.
    """

    def __setattr__(self, name: str, bound: Any) -> None:
        if not (name in _HOMES and isinstance(bound, ModuleType)):
            super().__setattr__(name, bound)


sys.modules[__name__].__class__ = _Package
