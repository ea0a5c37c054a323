"""For plugin authors and for `lmkit show`: a tokenizer to check by eye, and a check of a task."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from lmkit.answering.filling import with_mask
from lmkit.chat import CHATML
from lmkit.collating import Stream
from lmkit.collating.seq2seq import cutting
from lmkit.decoding import Chooser
from lmkit.encoding import IGNORE, Encoded, encode, prompt_ids
from lmkit.errors import TaskError
from lmkit.family import Family
from lmkit.formatting import Record
from lmkit.renaming import messages_column
from lmkit.saving.jsonform import from_json, to_json
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer
from lmkit.transforms import transformed
from lmkit.vocabulary import CONTROL, END, PAD, UNKNOWN

MASK = "<|mask|>"


@functools.lru_cache(maxsize=1)
def toy_tokenizer() -> Tokenizer:
    """Return a tokenizer in which every character is one token.

    It knows printable ASCII, Hangul syllables and a few control tokens, ends texts with
    `<|endoftext|>`, hides tokens behind `<|mask|>`, and has a ChatML template.

    >>> toy_tokenizer().decode(toy_tokenizer().encode("네, yes"))
    '네, yes'
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    letters = ["\n", "\t", *map(chr, range(32, 127)), *map(chr, range(0xAC00, 0xD7A4))]
    vocabulary = {text: index for index, text in enumerate([*CONTROL, *letters])}
    backend = Backend(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(CONTROL))
    tokenizer = Tokenizer(
        backend.to_str(),
        special={"eos_token": END, "pad_token": PAD, "unk_token": UNKNOWN},
        chat_template=CHATML,
    )
    return tokenizer.with_special("mask_token", MASK)


def sample_record(task: Task) -> dict[str, Any]:
    """Return a record that fits a task, for showing it: each column holds words about itself."""
    messages = messages_column(task.formatter)
    if messages is not None:
        return {
            messages: [
                {"role": "user", "content": "안녕하세요?"},
                {"role": "assistant", "content": "네, 안녕하세요!"},
            ]
        }
    words = ", 몇 마디 and a few words" if task.family is Family.MASKED else ""  # some to hide
    record = {column: f"<{column}>{words}" for column in task.columns}
    if isinstance(task.decoder, Chooser):
        record[task.answer_column] = task.decoder.labels[0]
    return record


def check_task(task: Task, records: Iterable[Record], tokenizer: Any = None) -> None:
    """Check what every task must have, on some records.

    The JSON form describes the same task, and something is learned in every row. Of a causal task,
    the prompt's ids are the first ids of the training row, of a seq2seq one all of its source, and
    the last token that is learned is what stops generation. Of a masked one, a word that is
    replaced by the mask token leaves a prompt with that token in it, framed as the row is. Where
    records are parts of one text, they have no end of their own, only a prompt.

    Args:
        task: the task.
        records: training records, their answers included.
        tokenizer: anything that `encode` takes; the toy tokenizer if None.
    Raises:
        TaskError: a property does not hold; the text says which, and for which record.
        RecordError: a record does not fit the task.
    """
    loaded = toy_tokenizer() if tokenizer is None else Tokenizer.load(tokenizer)
    if from_json(to_json(task), Task) != task:
        raise TaskError(f"task '{task.name}' is not the same after a trip through JSON")
    records = transformed(task.transforms, records, name="records")
    task = task.evolve(transforms=())
    if not records:
        raise TaskError(f"task '{task.name}' cannot be checked without a record")
    for record in records:
        row = encode(task, [record], loaded)[0]
        if not row.n_learned:
            raise TaskError(f"task '{task.name}': nothing is learned from {record}")
        if task.family is Family.MASKED:
            _check_masked(task, record, row, loaded)
        else:
            _check_answer(task, record, row, loaded)


def _check_answer(task: Task, record: Record, row: Encoded, tokenizer: Tokenizer) -> None:
    prompt = prompt_ids(cutting(task), record, tokenizer).tolist()
    if task.family is Family.SEQ2SEQ and row.input_ids.tolist() != prompt:
        raise TaskError(f"task '{task.name}': the prompt is not the source of {record}")
    if isinstance(task.collator, Stream):  # no row of its own, so no prompt in it and no end
        return
    if not row.n_cut and row.input_ids[: len(prompt)].tolist() != prompt:
        raise TaskError(f"task '{task.name}': the prompt is no prefix of the text of {record}")
    last = int(row.labels[row.labels != IGNORE][-1])
    if not (last == tokenizer.eos_id or tokenizer.is_control(last)):
        raise TaskError(f"task '{task.name}': the end of the answer is not learned: {record}")


def _check_masked(task: Task, record: Record, row: Encoded, tokenizer: Tokenizer) -> None:
    prompt = prompt_ids(task, with_mask(task, record, tokenizer), tokenizer)
    if tokenizer.mask_id not in prompt:
        raise TaskError(f"task '{task.name}': the mask token does not act in {record}")
    before, after = len(tokenizer.opening_ids), len(tokenizer.closing_ids)
    frames = [[*ids[:before], *ids[len(ids) - after :]] for ids in (prompt, row.input_ids)]
    if frames[0] != frames[1] and not task.formatter.delimited:
        raise TaskError(f"task '{task.name}': the prompt is framed otherwise than {record}")
    if any(tokenizer.is_control(int(token)) for token in row.labels if token != IGNORE):
        raise TaskError(f"task '{task.name}': a control token may be hidden in {record}")
