"""For plugin authors and for `lmkit show`: a tokenizer to check by eye, and a check of a task."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from lmkit.chat import CHATML
from lmkit.encoding import encode, prompt_ids
from lmkit.errors import TaskError
from lmkit.formatting import Record
from lmkit.jsonform import from_json, to_json
from lmkit.renaming import messages_column
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer
from lmkit.transforms import transformed
from lmkit.vocabulary import CONTROL, END, PAD, UNKNOWN


@functools.lru_cache(maxsize=1)
def toy_tokenizer() -> Tokenizer:
    """Return a tokenizer in which every character is one token.

    It knows printable ASCII, Hangul syllables and a few control tokens, ends texts with
    `<|endoftext|>`, and has a ChatML template.

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
    return Tokenizer(
        backend.to_str(),
        special={"eos_token": END, "pad_token": PAD, "unk_token": UNKNOWN},
        chat_template=CHATML,
    )


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
    return {column: f"<{column}>" for column in task.columns}


def check_task(task: Task, records: Iterable[Record], tokenizer: Any = None) -> None:
    """Check what every causal task must have, on some records.

    The JSON form describes the same task; the prompt's ids are the first ids of the training row;
    something is learned in every row, and its last token is what stops generation.

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
        prompt = prompt_ids(task, record, loaded).tolist()
        if not row.n_cut and row.input_ids[: len(prompt)].tolist() != prompt:
            raise TaskError(f"task '{task.name}': the prompt is no prefix of the text of {record}")
        last = int(row.labels[row.labels != -100][-1])
        if not (last == loaded.eos_id or loaded.is_control(last)):
            raise TaskError(f"task '{task.name}': the end of the answer is not learned: {record}")
