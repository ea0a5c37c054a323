"""Align: a tokenizer ends and pads texts as the tasks that it is for do.

What a training does to a model's tokenizer before its first row is encoded; it needs no model.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmkit.errors import TaskError
from lmkit.family import Family
from lmkit.formatting import Formatter
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer


def with_ends(tokenizer: Tokenizer, family: Family) -> Tokenizer:
    """Return a tokenizer that names what starts and ends a target, if its frame shows it.

    BERT's has no BOS and no EOS, and puts every text between `[CLS]` and `[SEP]`.
    """
    if family is Family.SEQ2SEQ:
        for role, framing in (("eos_token", "sep_token"), ("bos_token", "cls_token")):
            if role not in tokenizer.special and framing in tokenizer.special:
                tokenizer = tokenizer.with_special(role, tokenizer.special[framing])
    return tokenizer


def with_stops(tokenizer: Tokenizer, formatter: Formatter) -> tuple[Tokenizer, list[int]]:
    """Return a tokenizer whose EOS ends an answer, with the formatter's chat template.

    A chat template may end turns with another token than the tokenizer's EOS. That token is what a
    trained model writes at the end, so it becomes the EOS; the old one still stops.

    Returns:
        The tokenizer, and the ids that stop generation, the EOS first.
    """
    stops = [
        found
        for token in formatter.stop_tokens(tokenizer.dialect)
        if (found := tokenizer.token_to_id(token)) is not None
    ]
    if tokenizer.eos_id is not None:
        stops.append(tokenizer.eos_id)
    stops = list(dict.fromkeys(stops))
    if stops and stops[0] != tokenizer.eos_id:
        tokenizer = tokenizer.with_special("eos_token", tokenizer.id_to_token(stops[0]))
    template = formatter.chat_template(tokenizer.dialect)
    if template is not None and template != tokenizer.chat_template:
        tokenizer = tokenizer.with_template(template)
    return tokenizer, stops


def in_turn(tasks: Sequence[Task], tokenizer: Tokenizer) -> list[Task]:
    """Return tasks in the order in which a tokenizer is aligned with them.

    Those with a chat template come last, since theirs is the token that ends an answer from then on.

    Raises:
        TaskError: two tasks have unlike chat templates; a tokenizer can carry one only.
    """
    templates = {task.name: task.formatter.chat_template(tokenizer.dialect) for task in tasks}
    chats = [task for task in tasks if templates[task.name] is not None]
    for task in chats[1:]:
        if templates[task.name] != templates[chats[0].name]:
            raise TaskError(
                f"'{chats[0].name}' and '{task.name}' have unlike chat templates, and a model's "
                "tokenizer carries one; give both the same, as in Chat(template='chatml')"
            )
    return sorted(tasks, key=lambda task: templates[task.name] is not None)


def aligned(tokenizer: Tokenizer, tasks: Sequence[Task]) -> Tokenizer:
    """Return the tokenizer with which all of the tasks' rows are encoded."""
    tokenizer = with_ends(tokenizer, tasks[0].family)
    for task in in_turn(tasks, tokenizer):
        tokenizer, _ = with_stops(tokenizer, task.formatter)
    return tokenizer
