"""A mixture's training loss, task by task: which of them still learns is not seen in their sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmkit.answering.loss import Loss
from lmkit.encoding import IGNORE
from lmkit.losses import token_losses
from lmkit.train import ranks
from lmkit.train.extra import torch


class GroupLosses:
    """Sums of token losses, one for each group of rows.

    Args:
        names: the groups' names; a row says by its index which is its own.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._losses = [Loss() for _ in names]

    def add(self, logits: Any, labels: Any, group: Any) -> None:
        """Count a batch in.

        Args:
            logits: float [B, L, V], each for the label at its own place.
            labels: int64 [B, L].
            group: int64 [B], each row's group; or [B, T], each token's, T being L or one more.
        """
        with torch().no_grad():
            losses = token_losses(logits.detach(), labels)
        if group.dim() == 1:
            group = group[:, None].expand_as(labels)
        group = group[:, -labels.shape[1] :]
        for index in range(len(self._losses)):
            own = (group == index) & (labels != IGNORE)
            self._losses[index] += Loss(float(losses[own].sum()), int(own.sum()))

    def take(self) -> dict[str, float]:
        """Return the mean over each group's learned tokens since the last call, where it had any.

        Of several processes all must call it: the mean is over what all of them have read.
        """
        figures = {
            f"loss_{name}": loss.total / loss.count
            for name, loss in zip(self._names, over_all(self._losses), strict=True)
            if loss.count
        }
        self._losses = [Loss() for _ in self._names]
        return figures


def over_all(losses: Sequence[Loss]) -> list[Loss]:
    """Return losses over what all processes have read."""
    totals = ranks.total([loss.total for loss in losses])
    counts = ranks.total([loss.count for loss in losses])
    return [Loss(total, int(count)) for total, count in zip(totals, counts, strict=True)]
