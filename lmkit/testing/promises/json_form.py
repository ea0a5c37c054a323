"""A task becomes JSON and comes back the same: that is how a run and a bundle keep it."""

from __future__ import annotations

import json

from lmkit.errors import SerialError
from lmkit.saving.jsonform import dump, from_json, to_json
from lmkit.task import Task
from lmkit.testing.broken import Broken
from lmkit.testing.case import Case
from lmkit.testing.toys import toy_tokenizer


def check(case: Case) -> None:
    """Check that the task's JSON describes the same task, which writes the same text.

    Raises:
        Broken: it has no JSON, another task comes back, or one that writes another text.
    """
    try:
        written = dump(to_json(case.declared))
        back = from_json(json.loads(written), Task)
    except SerialError as error:
        raise Broken(
            f"it cannot become JSON and come back: {error}",
            "offer each class of your own in lmkit_components, an attrs class whose fields are plain "
            "values; and name functions, no lambdas, in map and where",
        ) from error
    if back != case.declared:
        differing = [
            name
            for name in ("formatter", "collator", "decoder", "generation", "loss", "metrics")
            if getattr(back, name) != getattr(case.declared, name)
        ]
        raise Broken(
            f"the task is not the same after a trip through JSON: {', '.join(differing)} differs",
            "keep all that a part knows in attrs fields with init=True",
            **{
                name: f"{getattr(case.declared, name)} → {getattr(back, name)}"
                for name in differing
            },
        )
    dialect = toy_tokenizer().dialect
    for record in case.each():
        if back.formatter.segments(record, dialect) != case.task.formatter.segments(
            record, dialect
        ):
            raise Broken(
                "after a trip through JSON the formatter writes another text",
                "keep all that the formatter knows in its attrs fields: JSON has nothing else",
            )
