"""What a bundle is made of: everything is known to fit before the first file is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from lmkit.task import Task
from lmkit.tokenizing import Tokenizer


@attrs.frozen(kw_only=True)
class Source:
    """A task and a model that go together.

    Attributes:
        task: what the model does.
        model: the transformers model, as it is to answer.
        name: how the user named it.
        tokenizer: its tokenizer, special tokens settled.
        stops: ids that end an answer, the EOS first.
        records: a few records to compare answers on.
        adapter: what became of the model's adapter, for the manifest; empty where it had none.
    """

    task: Task
    model: Any
    name: str
    tokenizer: Tokenizer
    stops: tuple[int, ...]
    records: Sequence[dict[str, Any]]
    adapter: dict[str, Any] = attrs.field(factory=dict)
