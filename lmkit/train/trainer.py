"""transformers' Trainer, with perplexity measured as lmkit measures it.

This module and `progress` import transformers at once, so `run` imports them when it trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from lmkit.family import Family
from lmkit.loss import Loss
from lmkit.train.lessons import loss_figures
from lmkit.train.scoring import mean_loss


class TaskTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer, measuring perplexity over learned tokens.

    The stock evaluation averages the batches' means, which weighs a token in a short batch more.
    """

    def __init__(self, *, family: Family, groups: Sequence[str] = (), **options: Any) -> None:
        super().__init__(**options)
        self._family = family
        self._groups = tuple(groups)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **named: Any) -> Any:
        """Return the model's loss; which task a row is of is no input of the model."""
        inputs.pop("group", None)
        return super().compute_loss(model, inputs, *args, **named)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Group rows of like length where that is asked for; the stock sampler wants columns."""
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        return LengthGroupedSampler(
            self.args.train_batch_size * self.args.gradient_accumulation_steps,
            lengths=self.train_dataset.lengths,
        )

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return and log `eval_loss`, `eval_perplexity` and `eval_tokens`.

        Of a mixture they are over all its tasks, and `eval_<task>_loss` and the like over each.
        """
        found = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(found, dict):
            figures = loss_figures({name: self._measured(rows) for name, rows in found.items()})
        else:
            figures = self._measured(eval_dataset).figures()
        metrics = {f"{metric_key_prefix}_{name}": figure for name, figure in figures.items()}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _measured(self, rows: Any) -> Loss:
        """Return the loss over some rows; the random state, which a data loader draws on, is kept.

        A checkpoint at the end of an epoch is written before the epoch is measured, so a run that
        goes on from it would else draw other numbers than one without an interruption.
        """
        with torch.random.fork_rng(devices=[]):
            return mean_loss(self.model, self.get_eval_dataloader(rows), self._family)
