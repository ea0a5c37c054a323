"""Look through an adapter: peft wraps the model that it stands beside."""

from __future__ import annotations

from typing import Any

ADAPTER_CONFIG = "adapter_config.json"  # peft's name for what is in an adapter's folder


def is_adapted(model: Any) -> bool:
    """Say whether a model is one of peft's: a base, and an adapter beside it."""
    return hasattr(model, "get_base_model")


def base_of(model: Any) -> Any:
    """Return the transformers model itself; one without an adapter is that."""
    return model.get_base_model() if is_adapted(model) else model


def virtual_tokens(model: Any) -> int:
    """Return how many places a model's soft prompt takes; none where it has no such adapter."""
    found = getattr(model, "peft_config", None) or {}
    return sum(int(getattr(config, "num_virtual_tokens", None) or 0) for config in found.values())
