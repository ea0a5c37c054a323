"""How rows begin and end: a model that never learns to stop, a text that starts twice."""

from __future__ import annotations

from lmkit.family import Family
from lmkit.previewing.checks import Check, Seen, Setting, Tally, always, last_run
from lmkit.tokenizing import Tokenizer


def eos_never_learned(setting: Setting) -> Check | None:
    """Return the check for rows whose last answer is not followed by a token that stops."""
    if setting.streams or setting.task.family is Family.MASKED:
        return None
    tokenizer = setting.tokenizer
    return Tally(
        name="eos-never-learned",
        level=always("error"),
        text="the answer ends without a token that stops it, so the model learns to write on",
        remedy="let the formatter end the answer with the EOS; in a chat template, put the token that "
        "ends a turn inside {% generation %} ... {% endgeneration %}",
        applies=lambda seen: len(seen.learned) > 0 and not _ends(seen, tokenizer),
        excerpt=lambda seen: setting.ending(seen.learned),
    )


def _ends(seen: Seen, tokenizer: Tokenizer) -> bool:
    """Say whether the last answer's last token that is no white space stops a text."""
    if seen.learned[-1] == tokenizer.eos_id:
        return True
    for token in reversed(last_run(seen.row.labels).tolist()):
        if tokenizer.ends_turn(token):
            return True
        if tokenizer.decode([token]).strip():
            return False
    return False


def double_bos(setting: Setting) -> Check | None:
    """Return the check for rows that start with their first token twice."""
    starts = [*setting.tokenizer.opening_ids[-1:]]
    if setting.tokenizer.bos_id is not None:
        starts.append(setting.tokenizer.bos_id)
    if not starts or setting.streams:
        return None

    def twice(seen: Seen) -> bool:
        ids = seen.row.input_ids
        return len(ids) > 1 and ids[0] == ids[1] and int(ids[0]) in starts

    return Tally(
        name="double-bos",
        level=always("error"),
        text="the row starts with the token that begins a text twice; at inference it will not",
        remedy="leave the BOS to the tokenizer, or to the template, not to both; take it out of the "
        "template's or the data's text",
        applies=twice,
        excerpt=lambda seen: setting.beginning(seen.row.input_ids),
    )
