"""transformers' Trainer, with losses and perplexity measured as lmkit measures them.

This module and `progress` import transformers at once, so `run` imports them when it trains.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.data_loader import SeedableRandomSampler
from accelerate.utils import DistributedType, str_to_bool
from torch.utils.data import RandomSampler, SequentialSampler
from transformers import Trainer

from lmkit.answering.loss import Loss
from lmkit.encoding import IGNORE
from lmkit.family import Family
from lmkit.losses import BatchLoss
from lmkit.train import ranks
from lmkit.train.feeding import Filled
from lmkit.train.grouping import GroupLosses, over_all
from lmkit.train.lengthgroups import LengthGroups
from lmkit.train.lessons import loss_figures
from lmkit.train.packing import rows_apart
from lmkit.train.scoring import aligned, forward, mean_losses, own_loss


class TaskTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer, whose losses are means over all that one optimizer step sees.

    The stock trainer leaves the division to models, and many (BERT's, T5's and BART's heads) take
    the number of items and do not use it, so that the parts of an accumulated batch weigh by chance.
    Its evaluation averages the batches' means, which weighs a token in a short batch more.

    Args:
        family: how the model reads a row.
        task_loss: what is made small in place of the mean over learned tokens.
        groups: names of the groups that batches tell by their `group`, int64 [B] or [B, T]; each
            one's loss is logged for itself.
        options: transformers' own.
    """

    loss_is_scaled_for_ga = True  # what Trainer asks before it divides by the accumulation steps

    def __init__(
        self,
        *,
        family: Family,
        task_loss: BatchLoss | None = None,
        groups: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._family = family
        self._task_loss = task_loss
        self._groups = GroupLosses(groups) if groups else None

    def create_accelerator_and_postprocess(self) -> None:
        """Shard over CPUs too, where that is asked for.

        Workaround: accelerate 1.15 takes an FSDP plugin only where there is some other device than
        the CPU, and says nothing where it does not; torch itself shards on CPUs as well. Delete this
        when accelerate does.
        """
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        asked = self.args.fsdp or str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false"))
        if asked and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = self.args.distributed_state.distributed_type = (
                DistributedType.FSDP
            )
            options = self.args.fsdp_plugin_args or {}  # else accelerate's own say
            if options.get("cpu_offload"):
                raise ValueError("cpu_offload is for training on another device than the CPU")
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**options)
            self.is_fsdp_enabled = True

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return a batch's share in the loss of its optimizer step.

        Args:
            model: the model, as accelerate wrapped it.
            inputs: the batch, tensors int64 [B, T].
            return_outputs: whether to return the model's output, too.
            num_items_in_batch: the parts of the step's mean, over all of its batches.
        """
        outputs = forward(model, inputs, self._family)
        total, count = self._total(inputs, outputs)
        items = count if num_items_in_batch is None else num_items_in_batch
        loss = total / torch.as_tensor(items, device=total.device).clamp(min=1)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            loss = loss * self.accelerator.num_processes  # the processes' gradients are averaged
        if self._groups is not None and "group" in inputs:
            self._groups.add(
                *aligned(outputs.logits, inputs["labels"], self._family), inputs["group"]
            )
        return (loss, outputs) if return_outputs else loss

    def _total(self, inputs: Mapping[str, Any], outputs: Any) -> tuple[Any, Any]:
        """Return the sum of a batch's losses, and the number of its parts."""
        if self._task_loss is not None and _learns(inputs):
            return own_loss(self._task_loss, inputs, outputs.logits, self._family)
        count = self._count(inputs)
        if count == 0:  # a mean over nothing is no number
            return outputs.logits.sum() * 0.0, count
        if self.label_smoother is not None:
            logits, labels = aligned(outputs.logits, inputs["labels"], self._family)
            return self.label_smoother({"logits": logits}, labels) * count, count
        return outputs.loss.mean() * count, count

    def _count(self, batch: Mapping[str, Any]) -> Any:
        """Return how many parts a batch's mean is over."""
        first = 1 if self._family.shifts else 0
        if self._task_loss is None:
            return (batch["labels"][:, first:] != IGNORE).sum()
        rows = rows_apart(batch)[0] if "position_ids" in batch else batch
        return self._task_loss.count(rows["labels"][:, first:])

    def _get_num_items_in_batch(self, batch_samples: Sequence[Any], device: Any) -> Any:
        """Return over how many parts the mean of an optimizer step is, in all processes."""
        if not batch_samples:
            return None
        count = torch.stack([self._count(batch) for batch in batch_samples]).sum().to(device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            count = self.accelerator.gather(count).sum()
        return count

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log figures, with those of a mixture's tasks beside the loss of training."""
        if "train_loss" in logs:  # of the steps since the last log each process has its own part
            logs = {
                **logs,
                "train_loss": ranks.total([logs["train_loss"]])[0] / self.args.world_size,
            }
        if self._groups is not None and "loss" in logs:
            logs = {**logs, **self._groups.take()}
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Group rows of like length where that is asked for; the stock sampler wants columns."""
        size = self.args.train_batch_size * self.args.world_size
        if self.args.train_sampling_strategy == "group_by_length":
            order = LengthGroups(self.train_dataset, size)
        else:
            order = super()._get_train_sampler(train_dataset)
        if self.args.world_size == 1 or self.args.dataloader_drop_last:
            return order
        if isinstance(order, RandomSampler):  # which accelerate does to it where it stands alone
            order = SeedableRandomSampler(self.train_dataset, data_seed=self.args.data_seed)
        return Filled(order, size)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Measure rows in their order; the stock sampler wants columns to group them by length."""
        order = SequentialSampler(eval_dataset)
        if self.args.world_size == 1:
            return order
        return Filled(order, self.args.eval_batch_size * self.args.world_size)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return and log `eval_loss`, `eval_perplexity` and `eval_tokens`.

        A task's own loss is `eval_task_loss`; the others are over learned tokens all the same. Of a
        mixture they are over all its tasks, and `eval_<task>_loss` and the like over each, with
        `eval_<task>_task_loss` where it has a loss of its own.
        """
        found = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(found, dict):
            measured = {name: self._measured(rows) for name, rows in found.items()}
            figures = loss_figures({name: loss for name, (loss, _) in measured.items()})
            of_task = {f"{name}_": loss for name, (_, loss) in measured.items()}
            of_task[""] = sum(of_task.values(), Loss())
        else:
            loss, task_loss = self._measured(found)
            figures, of_task = loss.figures(), {"": task_loss}
        if self._task_loss is not None:
            figures |= {
                f"{name}task_loss": loss.figures()["loss"] for name, loss in of_task.items()
            }
        metrics = {f"{metric_key_prefix}_{name}": figure for name, figure in figures.items()}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _measured(self, rows: Any) -> tuple[Loss, Loss]:
        """Return the losses over some rows, the task's own second; the random state is kept.

        A data loader draws on it, and a checkpoint at the end of an epoch is written before the
        epoch is measured, so a run that goes on from it would else draw other numbers than one
        without an interruption.
        """
        with torch.random.fork_rng(devices=[]):
            batches = self.get_eval_dataloader(rows)
            found = mean_losses(self.model, batches, self._family, self._task_loss)
        tokens, task = over_all(found)
        return tokens, task

    def whole_weights(self) -> dict[str, Any] | None:
        """Return the model's weights by name, where each process holds only a part of them.

        All processes must call it, and the first has them then. None where the model has them.
        """
        if not self.is_fsdp_enabled:
            return None
        weights: dict[str, Any] = self.accelerator.get_state_dict(self.model)
        return weights


def _learns(batch: Mapping[str, Any]) -> bool:
    """Say whether anything of a batch is learned."""
    return bool((batch["labels"] != IGNORE).any())
