"""Read what a `tokenizer.json` and the files beside it say, and rewrite what must be otherwise.

`lmkit.tokenizing` is the only user: here are the facts about a definition, there is what is done
with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmkit.errors import TokenizerError

if TYPE_CHECKING:
    import tokenizers

ROLES = (
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
    "mask_token",
    "cls_token",
    "sep_token",
)


def backend(data: Mapping[str, Any], text: str | None = None) -> tokenizers.Tokenizer:
    """Return the `tokenizers` object; control tokens in its text are never matched.

    Args:
        data: a definition.
        text: the same as JSON, if there is such a text: a vocabulary takes its time to be written.
    """
    import tokenizers

    if text is None or data.get("truncation") or data.get("padding"):
        text = json.dumps({**data, "truncation": None, "padding": None})
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises a bare Exception
        raise TokenizerError(f"the tokenizer's definition cannot be used: {error}") from error
    backend.encode_special_tokens = True  # control tokens are cut out here, never matched in text
    return backend


def stages(stage: Any, key: str) -> list[dict[str, Any]]:
    """Return a normalizer's or pre-tokenizer's steps, whether it is a sequence or a single one."""
    if stage is None:
        return []
    return list(stage[key]) if stage["type"] == "Sequence" else [stage]


def without_opening_space(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definition without its rule that text starts with a space."""
    normalizers = [
        step for step in stages(data.get("normalizer"), "normalizers") if step["type"] != "Prepend"
    ]
    splitters = []
    for step in stages(data.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] == "Metaspace":
            step = {**step, "prepend_scheme": "never"}
            step.pop("add_prefix_space", None)  # the older name of the same switch
        elif step["type"] == "ByteLevel":
            step = {**step, "add_prefix_space": False}
        splitters.append(step)
    sequence = {"type": "Sequence"}
    return {
        **data,
        "normalizer": {**sequence, "normalizers": normalizers} if normalizers else None,
        "pre_tokenizer": {**sequence, "pretokenizers": splitters} if splitters else None,
    }


def has_opening_space(data: Mapping[str, Any]) -> bool:
    """Say whether there is such a rule."""
    rest = without_opening_space(data)
    return any(
        stages(data.get(stage), key) != stages(rest.get(stage), key)
        for stage, key in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"))
    )


def adds_space_everywhere(data: Mapping[str, Any]) -> bool:
    """Say whether text after a control token gets an opening space too."""
    if any(s["type"] == "Prepend" for s in stages(data.get("normalizer"), "normalizers")):
        return True
    for step in stages(data.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] == "Metaspace" and step.get("prepend_scheme", "always") == "always":
            return bool(step.get("add_prefix_space", True))
        if step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            return True
    return False


def adds_space_to_words(data: Mapping[str, Any]) -> bool:
    """Say whether a text is cut at white space before each word gets its opening space (T5)."""
    kinds = [step["type"] for step in stages(data.get("pre_tokenizer"), "pretokenizers")]
    return "Metaspace" in kinds and "WhitespaceSplit" in kinds[: kinds.index("Metaspace")]


def byte_pieces(model: Mapping[str, Any]) -> dict[int, str]:
    """Return the pieces such as `<0x41>` by id, where text that spells one would be that byte.

    So it is in a Unigram model; BPE has no merges that lead to them.
    """
    if model.get("type") != "Unigram" or not model.get("byte_fallback"):
        return {}
    pieces = (piece for piece, _ in model["vocab"])
    return {at: piece for at, piece in enumerate(pieces) if _BYTE.fullmatch(piece)}


_BYTE = re.compile("<0x[0-9A-F]{2}>")
_BARRED = re.compile(r"[<\[][|｜].*[|｜][>\]]|\[[^\s\]]+\]", re.DOTALL)


def is_mark(token: Mapping[str, Any], chat_template: str | None) -> bool:
    """Say whether an added token marks a text's parts although it is not special.

    `special` only says whether decoding leaves a token out, and many that steer are not: DeepSeek's
    `<｜User｜>`, Qwen's `<think>` and `<tool_call>`. A mark is what the chat template writes, and what
    stands in square brackets or between bars. Other added tokens are words: runs of spaces, Gemma's
    HTML tags.

    Args:
        token: an entry of `added_tokens`.
        chat_template: the tokenizer's, or None.

    >>> is_mark({"content": "<think>", "special": False}, "{{ '<think>' }}")
    True
    >>> is_mark({"content": "<table>", "special": False}, "{{ '<think>' }}")
    False
    """
    text = token["content"]
    if token["special"] or not text.strip() or text.isalnum():
        return False
    return _BARRED.fullmatch(text) is not None or text in (chat_template or "")


def only_where_cut_out(data: Mapping[str, Any], ids: Container[int]) -> dict[str, Any]:
    """Return the definition with some added tokens such that `backend` never matches them."""
    added = [
        {**token, "special": True} if token["id"] in ids else token
        for token in data.get("added_tokens", ())
    ]
    return {**data, "added_tokens": added}


def special_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens' texts by role, however a config writes them."""
    found = {}
    for role in ROLES:
        token = config.get(role)
        if isinstance(token, Mapping):
            token = token.get("content")
        if isinstance(token, str):
            found[role] = token
    return found


# A bare tokenizer.json does not say which of its control tokens ends a text. These names are the
# ones that released models use; the first that is present counts.
# Source: the tokenizer_config.json of GPT-2, Llama 2 and 3, BERT, Gemma and ChatML models.
_USUAL = {
    "eos_token": ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>"),
    "pad_token": ("<pad>", "[PAD]", "<|pad|>"),
    "unk_token": ("<unk>", "[UNK]"),
    "mask_token": ("[MASK]", "<mask>"),
}


def guessed_special(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens of a bare tokenizer.json, by their usual names."""
    present = {token["content"] for token in data.get("added_tokens", ()) if token["special"]}
    guesses = {
        role: next((name for name in names if name in present), None)
        for role, names in _USUAL.items()
    }
    return {role: name for role, name in guesses.items() if name is not None}


def default_template(template: Any) -> str | None:
    """Return the template to use where a tokenizer has several (a list, or a mapping by name)."""
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}
    if isinstance(template, Mapping):
        template = template.get("default")
    return template if isinstance(template, str) else None


def sane_length(length: Any) -> int | None:
    """Return a length in tokens; transformers writes 1e30 where it knows none."""
    return int(length) if isinstance(length, (int, float)) and 0 < length < 1e9 else None


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object, or nothing where there is no such file."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TokenizerError(f"'{path}' is not valid JSON: {error}") from error
    return data if isinstance(data, dict) else {}
