"""The end of an answer is learned, and it is what stops generation."""

from __future__ import annotations

from lmkit.aligning import with_ends, with_stops
from lmkit.collating import Stream
from lmkit.encoding import IGNORE
from lmkit.family import Family
from lmkit.testing.broken import Broken, DoesNotApply
from lmkit.testing.case import Case


def check(case: Case) -> None:
    """Check the last token that is learned of each record, on each tokenizer.

    Raises:
        Broken: it does not stop generation; or, in a masked row, a control token may be hidden.
        DoesNotApply: records are parts of one text, which has no end.
    """
    task = case.task
    if isinstance(task.collator, Stream):
        raise DoesNotApply("records are parts of one text, which goes on")
    for name, tokenizer, record in case.with_each():
        row = case.row(record, tokenizer)
        learned = [] if row is None else row.labels[row.labels != IGNORE].tolist()
        if task.family is Family.MASKED:
            if any(map(tokenizer.is_control, learned)):
                raise Broken(
                    "a control token may be hidden, though no text holds one",
                    "learn only what the segments say, not what frames them",
                    tokenizer=name,
                )
            continue
        _, stops = with_stops(with_ends(tokenizer, task.family), task.formatter)
        if learned and learned[-1] not in stops:
            ends = ", ".join(tokenizer.id_to_token(stop) for stop in stops)
            raise Broken(
                "the end of the answer is not learned, so an answer would never stop",
                f"let the last label be what ends an answer ({ends})",
                tokenizer=name,
            )
