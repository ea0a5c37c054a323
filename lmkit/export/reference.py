"""What torch writes behind real prompts, computed once; every precision of a bundle is compared with it.

Torch reads each prompt alone and unpadded, so whatever padding or position might do wrong in a graph
shows. Where the model is a large one, it may be freed when this is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from lmkit.answering.logits import Logits
from lmkit.collating.seq2seq import cutting
from lmkit.encoding import Ids, prompt_ids
from lmkit.errors import RecordError
from lmkit.saving.manifest import Manifest, Seq2SeqGraph
from lmkit.tokenizing import Tokenizer
from lmkit.train.extra import torch
from lmkit.train.generating import only_config
from lmkit.train.quiet import quiet

GREEDY_TOKENS = 24  # compared behind each prompt
LONG_PAST = 384  # tokens of the long past, where the context has room
LONG_TARGET = 144  # tokens of the long target: T5 tells distances of up to 128 apart


@attrs.frozen(kw_only=True, eq=False)
class Case:
    """A prompt and what torch says behind it.

    Attributes:
        prompt: int64 [P].
        token_ids: what its `generate()` writes greedily, int64 [L]; or a target that was chosen.
        logits: what predicts each of these tokens, and the one behind them, float32 [L + 1, V].
    """

    prompt: Ids
    token_ids: Ids
    logits: Logits


@attrs.frozen(kw_only=True, eq=False)
class Reference:
    """Torch's side.

    Attributes:
        cases: one for each record.
        long: a long past.
        target: a long target, which no greedy answer may reach; None where the past is one text.
        golden: the records whose prompts were cut nowhere, by their place among the cases.
    """

    cases: Sequence[Case]
    long: Case
    target: Case | None
    golden: Mapping[int, Mapping[str, Any]]

    @property
    def prompts(self) -> list[Ids]:
        """The records' prompts, each int64 [P]."""
        return [case.prompt for case in self.cases]


def refer(
    model: Any, manifest: Manifest, tokenizer: Tokenizer, records: Sequence[Mapping[str, Any]]
) -> Reference:
    """Ask torch.

    Args:
        model: the torch model.
        manifest: what the bundle says of the task, the tokens and the lengths.
        tokenizer: the bundle's.
        records: real records; their prompts are used.
    """
    task = cutting(manifest.task)
    found = [prompt_ids(task, record, tokenizer) for record in records]
    most = _longest_prompt(manifest)
    prompts = [prompt if most is None else prompt[-most:] for prompt in found]
    long = np.resize(np.concatenate(prompts), LONG_PAST if most is None else min(LONG_PAST, most))
    return Reference(
        cases=[_greedy(model, prompt, manifest) for prompt in prompts],
        long=_greedy(model, long, manifest),
        target=_long_target(model, long, manifest),
        golden={
            place: record
            for place, (record, prompt) in enumerate(zip(records, prompts, strict=True))
            if _is_whole(manifest, tokenizer, record, prompt)
        },
    )


def _longest_prompt(manifest: Manifest) -> int | None:
    """Return the most tokens of a prompt that an answer can follow, or None."""
    most = manifest.graph.context_length
    if most is None:
        return None
    return max(1, most - (GREEDY_TOKENS if manifest.task.family.shifts else 0))


def _is_whole(
    manifest: Manifest, tokenizer: Tokenizer, record: Mapping[str, Any], prompt: Ids
) -> bool:
    """Say whether a record's prompt was compared as it stands, cut nowhere."""
    try:
        return len(prompt_ids(manifest.task, record, tokenizer)) == len(prompt)
    except RecordError:  # its source is too long
        return False


def _long_target(model: Any, prompt: Ids, manifest: Manifest) -> Case | None:
    if not isinstance(manifest.graph, Seq2SeqGraph):
        return None
    most = manifest.graph.target_length
    target = np.resize(prompt, LONG_TARGET if most is None else min(LONG_TARGET, most - 1))
    return _case(model, prompt, target, manifest)


def _greedy(model: Any, prompt: Ids, manifest: Manifest) -> Case:
    """Return what torch's `generate()` writes behind one prompt."""
    from transformers import GenerationConfig

    tokens, start, room = manifest.tokens, _start(manifest), _room(manifest, prompt)
    config = GenerationConfig(
        max_new_tokens=GREEDY_TOKENS if room is None else min(GREEDY_TOKENS, room),
        do_sample=False,
        eos_token_id=list(tokens.stop),
        pad_token_id=tokens.pad,
        decoder_start_token_id=start,
    )
    ids = torch().from_numpy(prompt)[None]
    model.eval()
    with torch().inference_mode(), quiet(), only_config(model, config):
        found = model.generate(input_ids=ids, attention_mask=torch().ones_like(ids))
    written = found[0, len(prompt) if start is None else 1 :]
    return _case(model, prompt, np.asarray(written.numpy(), dtype=np.int64), manifest)


def _room(manifest: Manifest, prompt: Ids) -> int | None:
    """Return the most tokens that can follow a prompt, or None."""
    graph = manifest.graph
    if isinstance(graph, Seq2SeqGraph):
        return graph.target_length
    return None if graph.context_length is None else graph.context_length - len(prompt)


def _start(manifest: Manifest) -> int | None:
    """Return the token that a decoder is given first; None for a causal model, which has the prompt."""
    return manifest.graph.start_id if isinstance(manifest.graph, Seq2SeqGraph) else None


def _case(model: Any, prompt: Ids, token_ids: Ids, manifest: Manifest) -> Case:
    """Return torch's logits along an answer, in one pass without a cache."""
    start = _start(manifest)
    with torch().inference_mode():
        if start is not None:
            target = torch().from_numpy(np.concatenate([[start], token_ids]))[None]
            source = torch().from_numpy(prompt)[None]
            found = model(input_ids=source, decoder_input_ids=target, use_cache=False).logits[0]
        else:
            whole = torch().from_numpy(np.concatenate([prompt, token_ids]))[None]
            # Counted from the end: a soft prompt's places come first.
            found = model(input_ids=whole, use_cache=False).logits[0, -len(token_ids) - 1 :]
    logits = found.float().numpy().copy()  # a view would hold the whole prompt's
    return Case(prompt=prompt, token_ids=token_ids, logits=logits)
