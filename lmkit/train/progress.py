"""What a user sees and keeps of a training: a bar on standard error, and `metrics.jsonl`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lmkit.files import write_atomically
from lmkit.tokenizing import Tokenizer
from lmkit.train import ranks
from lmkit.train.folder import save_beside
from lmkit.train.reporting.report import write_or_warn


class Progress(TrainerCallback):  # type: ignore[misc]
    """A bar with the loss where there is a terminal; plain lines where there is none."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._job: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show an empty bar, or one that starts where a resumed run left off."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        if not console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._job = self._bar.add_task("", total=state.max_steps, figures="")
        self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._job, completed=state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Show the newest figures."""
        words = _words(logs or {})
        if not words:
            return
        if self._bar is not None:
            self._bar.update(self._job, figures=words)
        else:
            print(f"step {state.global_step}/{state.max_steps}  {words}", file=sys.stderr)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()


def _words(logs: dict[str, Any]) -> str:
    names = {
        "loss": "loss {:.3f}",
        "eval_loss": "eval loss {:.3f}",
        "eval_perplexity": "eval perplexity {:.2f}",
        "learning_rate": "lr {:.1e}",
        "epoch": "epoch {:.2f}",
    }
    return "  ".join(form.format(float(logs[n])) for n, form in names.items() if n in logs)


class MetricsLog(TrainerCallback):  # type: ignore[misc]
    """Appends every logged figure to a JSON-lines file, one object a line.

    A resumed run first drops the lines after its checkpoint, so that no step is there twice.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the lines up to the step that training starts from."""
        lines = self._path.read_text("utf-8").splitlines() if self._path.is_file() else []
        kept = [line for line in lines if _step_of(line) <= state.global_step]
        write_atomically(self._path, "".join(f"{line}\n" for line in kept if state.global_step))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Add a line."""
        line = json.dumps({"step": state.global_step, **(logs or {})})
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def _step_of(line: str) -> int:
    """Return a line's step; a line that was cut off by a kill counts as never written."""
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        return sys.maxsize


class KeepReport(TrainerCallback):  # type: ignore[misc]
    """Writes the run's report beside a checkpoint, so that a long training can be looked at.

    Args:
        every_s: the least seconds between two reports.
    """

    def __init__(self, every_s: float = 60.0) -> None:
        self._every_s = every_s
        self._last = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write it, unless it is new enough."""
        if time.monotonic() - self._last >= self._every_s:
            write_or_warn(Path(args.output_dir))
            self._last = time.monotonic()


class SaveBeside(TrainerCallback):  # type: ignore[misc]
    """Puts the task and the tokenizer into every checkpoint, so that each one is a run itself.

    Of several processes the first does so, once all have written their part of the checkpoint.

    Args:
        model: the model, as it was before anything was wrapped around it.
        tokenizer: its tokenizer.
        task_file: the task, in the run's folder.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, task_file: Path) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._task_file = task_file

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write them into the newest checkpoint."""
        ranks.wait()
        if not ranks.is_first():
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if folder.is_dir():
            save_beside(self._model, self._tokenizer, folder)
            write_atomically(folder / self._task_file.name, self._task_file.read_text("utf-8"))
