"""Save what tasks of every make become, as JSON and as ids, with whatever lmkit Python finds.

    git worktree add --detach /tmp/then COMMIT
    export PYTHONPATH=/tmp/then:/tmp/then/plugins
    python tests/compat/save_tasks.py tests/compat/saved/NAME-tasks.json

What that lmkit cannot say yet is left out. As with `save.py`, a file is made once and never anew.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmkit as lk
from lmkit.saving.jsonform import to_json

TOKENIZER = Path(__file__).parent / "saved" / "issue-2-chat.zip"
QA = {"prompt": "What is 2+2?", "completion": "It is 4."}
KOREAN = {"prompt": "안녕하세요?", "completion": "네, 안녕하세요!"}
TURNS = {
    "messages": [
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A small model."},
        {"role": "user", "content": "안녕하세요?"},
        {"role": "assistant", "content": "네!"},
    ]
}


def causal(**changes: Any) -> Any:
    """Return a plain task with some parts changed."""
    parts: dict[str, Any] = {
        "formatter": lk.context("{prompt}: ") + lk.target("{completion}"),
        "collator": lk.CausalCollator(max_length=96),
        "decoder": lk.TextDecoder(),
    }
    return lk.Task(name="t", **{**parts, **changes})


TASKS: dict[str, tuple[Callable[[], Any], list[dict[str, Any]]]] = {
    "qa": (lambda: lk.get_task("qa"), [QA, KOREAN]),
    "alpaca": (
        lambda: lk.get_task("alpaca"),
        [{"instruction": "A?", "input": "B", "output": "C"}, {"instruction": "A?", "output": "C"}],
    ),
    "chat": (lambda: lk.get_task("chat"), [TURNS]),
    "summarize": (lambda: lk.get_task("summarize"), [{"article": "It is 4.", "summary": "4"}]),
    "classify": (lambda: lk.get_task("classify"), [{"text": "It is 4.", "answer": "Yes"}]),
    "char-lm": (lambda: lk.get_task("char-lm"), []),
    "mlm": (lambda: lk.get_task("mlm"), []),
    "kept if there": (
        lambda: causal(
            formatter=lk.context("{prompt}\n")
            + lk.context("+ {more}\n").when("more")
            + lk.target("{completion}")
        ),
        [QA, {**QA, "more": "4"}],
    ),
    "braces": (
        lambda: causal(formatter=lk.context("{{{prompt}}} ") + lk.target("{completion}")),
        [QA],
    ),
    "one of two": (
        lambda: causal(
            formatter=(
                lk.context("{more}? ").when("more") | lk.context("{prompt}! ").when("prompt")
            )
            + lk.target("{completion}")
        ),
        [QA, {**QA, "more": "4"}],
    ),
    "cut": (
        lambda: causal(
            formatter=lk.context("{prompt}: ").cut("right") + lk.target("{completion}"),
            collator=lk.CausalCollator(max_length=14),
        ),
        [QA],
    ),
    "too long": (lambda: causal(collator=lk.CausalCollator(max_length=14)), [QA]),
    "stops": (lambda: causal(decoder=lk.TextDecoder(stop=("\n",), strip=False)), [QA]),
    "labels": (
        lambda: causal(decoder=lk.LabelDecoder(labels=("4", "5"))),
        [{"prompt": "2+2", "completion": "4"}],
    ),
    "measured": (lambda: causal(metrics=(lk.ExactMatch(),)), [QA]),
    "generation": (
        lambda: causal(generation=lk.Generation(max_new_tokens=5, temperature=0.5, top_p=0.9)),
        [QA],
    ),
    "last turn": (lambda: lk.get_task("chat").evolve(formatter=lk.Chat(learn="last")), [TURNS]),
    "flat chat": (
        lambda: causal(
            formatter=lk.Chat.of(system="Be.", user="{prompt}", assistant="{completion}")
        ),
        [QA],
    ),
    "renamed": (
        lambda: causal().rename(question="prompt"),
        [{"question": "2+2", "completion": "4"}],
    ),
    "lost transform": (lambda: causal().where(lambda record: True), []),
    "key tokens": (lambda: causal(loss=lk.keytoken_weighted(("4",), alpha=2.0)), [QA]),
    "seq2seq": (
        lambda: causal(collator=lk.Seq2SeqCollator(max_source_length=20, max_target_length=9)),
        [QA],
    ),
    "mixture": (lambda: lk.mix({"qa": 3, "alpaca": 1}, seed=0), []),
    "packed": (lambda: causal(collator=lk.CausalCollator(max_length=96, pack=True)), [QA]),
}


def written(task: Any) -> Any:
    """Return a task as a run of then would write it down."""
    try:
        return to_json(task)
    except lk.LmkitError:
        from lmkit.train.folder import recorded_task

        return recorded_task(task)


def main(target: Path) -> None:
    """Write the file."""
    saved: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(TOKENIZER).extractall(folder)
        for name, (make, records) in TASKS.items():
            try:
                task = make()
                rows = lk.encode(task, records, f"{folder}/bundle") if records else []
                saved[name] = {
                    "task": written(task),
                    "records": records,
                    "rows": [[row.input_ids.tolist(), row.labels.tolist()] for row in rows],
                }
            except (AttributeError, TypeError, LookupError, ValueError) as error:
                print(f"{name} cannot be said: {type(error).__name__}: {error}".splitlines()[0])
    target.write_text(json.dumps(saved, ensure_ascii=False) + "\n", "utf-8")
    print(f"{target}: {len(saved)} tasks, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    if Path(sys.argv[1]).exists():
        sys.exit(f"{sys.argv[1]} is there already")
    main(Path(sys.argv[1]))
