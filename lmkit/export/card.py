"""The bundle's README.md: what it does, how to ask it, and what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmkit.export.table import precision_notes, precision_table
from lmkit.family import Family
from lmkit.renaming import messages_column
from lmkit.saving.manifest import Manifest
from lmkit.saving.needs import needed_to_answer, requirements
from lmkit.tokenizing import Tokenizer

CARD_FILE = "README.md"

_CARD = """\
# {name}

{description}

`{architecture}`, {parameters:,} parameters, as an ONNX graph with its tokenizer and its task
(`lmkit.json`). It needs no torch: `{install}`.{files}

## Ask it

```python
import lmkit as lk

ask = lk.load("{folder}")
answer = ask({record})
print(answer.value, answer.finish_reason, answer.usage)
```

```sh
lmkit generate {folder} --set {column}='{text}'{flags}
lmkit verify {folder}
```
{precisions}
## Measured at export

{table}

{notes}

| compared with torch | figure |
|---|---|
{figures}

{compared} The figures are also in `lmkit.json`.
"""

_COMPARED = """\
Greedy tokens and logits were compared with torch's on single prompts, on the same prompts as one
ragged batch, and behind a long past."""
_COMPARED_FILLS = """\
The likeliest tokens and logits were compared with torch's on single prompts and on the same prompts
as one padded batch."""


def write_card(part: Path, manifest: Manifest, tokenizer: Tokenizer) -> None:
    """Write the card into a bundle that is being made."""
    task = manifest.task
    needs = needed_to_answer(task, manifest.plugins)
    columns = task.prompt_columns
    fills = task.family is Family.MASKED
    text = f"... {tokenizer.special['mask_token']} ..." if fills else "..."
    record: dict[str, Any] = dict.fromkeys(columns, text)
    if messages_column(task.formatter) is not None:
        record = {columns[0]: [{"role": "user", "content": "..."}]}
    card = _CARD.format(
        name=f"{task.name} on {manifest.model['name']}",
        description=task.description or f"The task `{task.name}`.",
        architecture=manifest.model["architecture"],
        parameters=manifest.model["parameters"],
        install=" ".join(["pip install lmkit-tasks", *requirements(needs)]),
        files="".join(
            f" It does need the plugin file `{need.plugin}.py`, which is no part of it: "
            f"`lmkit --plugin {need.plugin}.py generate ...`, or `LMKIT_PLUGIN_FILES={need.plugin}.py`."
            for need in needs
            if need.distribution is None
        ),
        folder="path/to/this/folder",
        record=json.dumps(record, ensure_ascii=False),
        column=columns[0] if columns else "column",
        text=text,
        flags="" if fills else " --stream",
        compared=_COMPARED_FILLS if fills else _COMPARED,
        figures="\n".join(_rows({name: one.parity for name, one in manifest.precisions.items()})),
        table=_table(manifest),
        notes=" ".join(precision_notes(manifest)),
        precisions=_choice(manifest),
    )
    (part / CARD_FILE).write_text(card, "utf-8")


def _table(manifest: Manifest) -> str:
    titles, rows = precision_table(manifest)
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _choice(manifest: Manifest) -> str:
    """Return how to choose among several precisions."""
    names = list(manifest.precisions)
    if len(names) < 2:
        return ""
    other = next(name for name in names if name != manifest.precision)
    return (
        f"\nIt opens at `{manifest.precision}`; others are chosen with "
        f'`lk.load("path/to/this/folder", precision="{other}")` or `--precision {other}`.\n'
    )


def _rows(figures: dict[str, Any], prefix: str = "") -> list[str]:
    rows = []
    for key, content in figures.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(content, dict):
            rows += _rows(content, name)
        else:
            rows.append(f"| {name} | {_shown(content)} |")
    return rows


def _shown(content: Any) -> str:
    if isinstance(content, bool):
        return "yes" if content else "no"
    if isinstance(content, float):
        return f"{content:.3g}" if content < 1e-2 else f"{content:,.3f}"
    return f"{content:,}" if isinstance(content, int) else str(content)
