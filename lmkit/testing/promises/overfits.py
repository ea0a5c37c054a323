"""A tiny model learns ten rows by heart: what it is taught is what it is asked.

Labels that are out of place, an answer that is not learned, a loss over another part, a prompt that
training never showed: each of them leaves a model that cannot repeat what it was taught.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from lmkit.collating import Stream
from lmkit.encoding import IGNORE, encode
from lmkit.errors import MissingExtra
from lmkit.evaluating import answered
from lmkit.family import Family
from lmkit.records import Row
from lmkit.testing.broken import Broken
from lmkit.testing.case import Case
from lmkit.testing.learning import STEPS, Learned, pupil_of, taught

ENOUGH = 0.9  # of hidden tokens: two texts may differ in just the one that is hidden

Wrong = tuple[Row, Any, Any]  # a record, what it should have been answered, and what it was


def check(case: Case) -> None:
    """Check that a tiny model's greedy answers are those of the records.

    Raises:
        Broken: they are not, after as many steps as other tasks need several times over.
        DoesNotApply: every record is too long for a tiny model.
        MissingExtra: torch is not installed.
    """
    need("training", "train", "torch", "transformers", "accelerate")
    pupil = pupil_of(case)
    case.current = None
    for steps in STEPS[case.task.family]:
        learned = taught(case, pupil, steps)
        wrong = _mistakes(learned)
        if not wrong:
            case.kept["learned"] = learned
            return
    first, expected, found = wrong[0]
    case.current = first
    raise Broken(
        f"a tiny model that saw {len(pupil.rows)} rows {steps} times each repeats "
        f"{len(pupil.rows) - len(wrong)} of them",
        "look at the text above: what is asked must come before «», and all of the answer must stand "
        "in it; if so, look at the loss and the collator, if they are your own",
        expected=repr(expected),
        answered=repr(found),
    )


def need(what: str, extra: str, *packages: str) -> None:
    """Raise `MissingExtra` where a package is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(what, extra, package)


def _mistakes(learned: Learned) -> list[Wrong]:
    """Return the records that are not answered as they should be."""
    task = learned.pupil.task
    how: Callable[[Learned], list[Wrong]] = _answers
    if isinstance(task.collator, Stream):
        how = _continued
    elif task.family is Family.MASKED:
        how = _fills
    return how(learned)


def _answers(learned: Learned) -> list[Wrong]:
    rows = learned.pupil.rows
    found, expected = answered(learned.model, rows)
    if all(wanted in ("", None, [], ()) for wanted in expected):
        raise Broken(
            "all answers are blank, so there is nothing to repeat",
            "let the target name the answer's column",
        )
    pairs = zip(rows, expected, found, strict=True)
    return [(row, wanted, got) for row, wanted, got in pairs if got != wanted]


def _fills(learned: Learned) -> list[Wrong]:
    """Hide the tokens of each text one at a time; a few of all may be filled otherwise."""
    model: Any = learned.model
    tokenizer = model.tokenizer
    asked, wanted, owners = [], [], []
    for row in learned.pupil.rows:
        encoded = encode(model.task, [row], tokenizer)[-1]
        places = np.flatnonzero(encoded.labels != IGNORE)
        for place in places[:: max(1, len(places) // 4)].tolist():
            ids = encoded.input_ids.copy()
            wanted.append(int(encoded.labels[place]))
            ids[place] = tokenizer.mask_id
            asked.append(ids)
            owners.append(row)
    found = [fills[0] for fills in model.best(asked)]
    wrong: dict[int, Wrong] = {}
    right = 0
    for row, ids, token, fill in zip(owners, asked, wanted, found, strict=True):
        right += token == fill
        if token != fill:
            shown = tokenizer.decode(ids.tolist(), skip_control=False)
            texts = [tokenizer.decode([one], skip_control=False) for one in (token, fill)]
            wrong.setdefault(id(row), (row, texts[0], f"{texts[1]} in {shown}"))
    return [] if right >= ENOUGH * len(wanted) else list(wrong.values())


def _continued(learned: Learned) -> list[Wrong]:
    """Measure the text, and have its opening written on where there is a column to ask it in."""
    model, rows = learned.model, learned.pupil.rows
    task = model.task
    encoded = task.collator.measured(encode(task, rows, model.tokenizer), model.tokenizer)
    found = [np.exp(one) for one in model.log_probs(list(encoded))]
    surest = float(np.mean(np.concatenate(found)))
    if surest >= ENOUGH:
        return []
    return [(row, "each token surer than 0.9 on average", f"{surest:.2f}") for row in rows]
