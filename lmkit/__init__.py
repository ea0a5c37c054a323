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
    # `as` says to type checkers that a name is for everybody: they cannot read `__all__` below.
    from lmkit.adapters import lora as lora
    from lmkit.adapters import prompt_tuning as prompt_tuning
    from lmkit.answering.chaining import chain as chain
    from lmkit.chat import Chat as Chat
    from lmkit.collating.blocks import BlockCollator as BlockCollator
    from lmkit.collating.causal import CausalCollator as CausalCollator
    from lmkit.collating.masked import MaskedCollator as MaskedCollator
    from lmkit.collating.seq2seq import Seq2SeqCollator as Seq2SeqCollator
    from lmkit.decoding import Answer as Answer
    from lmkit.decoding.fills import FillMaskDecoder as FillMaskDecoder
    from lmkit.decoding.labels import LabelDecoder as LabelDecoder
    from lmkit.decoding.text import TextDecoder as TextDecoder
    from lmkit.encoding import Encoded as Encoded
    from lmkit.encoding import encode as encode
    from lmkit.encoding import prompt_ids as prompt_ids
    from lmkit.errors import LmkitError as LmkitError
    from lmkit.evaluating import evaluate as evaluate
    from lmkit.export.bundle import export as export
    from lmkit.family import Family as Family
    from lmkit.formatting import Segment as Segment
    from lmkit.formatting import context as context
    from lmkit.formatting import target as target
    from lmkit.generation import Generation as Generation
    from lmkit.hooks import hookimpl as hookimpl
    from lmkit.losses import keytoken_weighted as keytoken_weighted
    from lmkit.metrics import ExactMatch as ExactMatch
    from lmkit.mixing import mix as mix
    from lmkit.previewing.looking import preview as preview
    from lmkit.registry import get_task as get_task
    from lmkit.registry import plugins as plugins
    from lmkit.registry import tasks as tasks
    from lmkit.runtime.opening import load as load
    from lmkit.scratch import scratch as scratch
    from lmkit.task import Task as Task
    from lmkit.tokenizing import Tokenizer as Tokenizer
    from lmkit.train.run import train as train
    from lmkit.vocabulary import train_tokenizer as train_tokenizer

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
    "chain": "answering.chaining",
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


def _lazy(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None and name in _MOVED:
        return _moved(name)
    if home is None:
        raise AttributeError(f"module 'lmkit' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"lmkit.{home}"), name)
    globals()[name] = found
    return found


if not TYPE_CHECKING:
    # A type checker that saw it would take every misspelt name for one that may be there.
    __getattr__ = _lazy


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
