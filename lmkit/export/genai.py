"""`genai_config.json`: what onnxruntime-genai needs to load a bundle unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmkit.saving.jsonform import dump
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer

CONFIG_FILE = "genai_config.json"
MOST_BUFFERED = 4096  # tokens; onnxruntime-genai allocates keys and values for all of them at once


def write_genai_config(
    part: Path, contract: Any, task: Task, tokenizer: Tokenizer, stops: Sequence[int]
) -> None:
    """Write the file."""
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": contract.head_size,
        "hidden_size": contract.hidden_size,
        "num_attention_heads": contract.heads,
        "num_hidden_layers": contract.n_layers,
        "num_key_value_heads": contract.kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "position_ids": "position_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    options = task.generation
    length = contract.context_length or 2048
    config = {
        "model": {
            "type": "llama",
            "bos_token_id": tokenizer.bos_id if tokenizer.bos_id is not None else stops[0],
            "eos_token_id": list(stops) if len(stops) > 1 else stops[0],
            "pad_token_id": tokenizer.pad_id,
            "context_length": length,
            "vocab_size": contract.vocab_size,
            "decoder": decoder,
        },
        "search": {
            "max_length": min(length, MOST_BUFFERED),
            "do_sample": options.temperature > 0,
            "temperature": options.temperature or 1.0,
            "top_k": options.top_k or 0,
            "top_p": options.top_p,
            "repetition_penalty": options.repetition_penalty,
            "past_present_share_buffer": True,
        },
    }
    (part / CONFIG_FILE).write_text(dump(config), "utf-8")


def try_genai(part: Path) -> dict[str, Any]:
    """Load a finished bundle in onnxruntime-genai and return what the manifest says about it.

    Returns:
        `loads` is true, false with the `reason`, or null where the library is not installed.
    """
    try:
        import onnxruntime_genai
    except ImportError:
        return {"loads": None, "reason": "onnxruntime-genai was not installed at export"}
    version = onnxruntime_genai.__version__
    try:
        onnxruntime_genai.Model(str(part))
    except Exception as error:  # the library raises its own kinds
        return {"loads": False, "version": version, "reason": str(error)}
    return {"loads": True, "version": version}
