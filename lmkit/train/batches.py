"""From numpy to torch: what collators make, as models read it."""

from __future__ import annotations

from typing import Any

from lmkit.collating import Batch
from lmkit.train.extra import torch


def as_tensors(batch: Batch) -> dict[str, Any]:
    """Return a numpy batch as torch tensors, int64 [B, T]: the only such place in lmkit."""
    return {name: torch().from_numpy(array) for name, array in batch.items()}
