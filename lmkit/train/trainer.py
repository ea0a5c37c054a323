"""transformers' Trainer, with perplexity measured as lmkit measures it.

This module and `progress` import transformers at once, so `run` imports them when it trains.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import SequentialSampler
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from lmkit.family import Family
from lmkit.train.scoring import mean_loss


class TaskTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer, measuring perplexity over learned tokens.

    The stock evaluation averages the batches' means, which weighs a token in a short batch more.
    """

    def __init__(self, *, family: Family, **options: Any) -> None:
        super().__init__(**options)
        self._family = family

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Group rows of like length where that is asked for; the stock sampler wants columns."""
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        return LengthGroupedSampler(
            self.args.train_batch_size * self.args.gradient_accumulation_steps,
            lengths=self.train_dataset.lengths,
        )

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Measure rows in their order; the stock sampler wants columns to group them by length."""
        return SequentialSampler(eval_dataset)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return and log `eval_loss`, `eval_perplexity` and `eval_tokens`."""
        loss = mean_loss(self.model, self.get_eval_dataloader(eval_dataset), self._family)
        metrics = {f"{metric_key_prefix}_{name}": figure for name, figure in loss.figures().items()}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
