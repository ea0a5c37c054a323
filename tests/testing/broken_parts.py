"""A plugin whose parts each break one promise; `plugged` in `conftest` offers it."""

import itertools
import json
import sys
from collections.abc import Iterable
from typing import Any

import attrs
import numpy as np

import lmkit as lk
from lmkit.encoding import IGNORE

TEMPLATE = lk.context("Q: {q}\nA:") + lk.target(" {a}")


class Around:
    """A formatter that writes TEMPLATE; each of the others does one thing otherwise."""

    columns = ("q", "a")
    prompt_columns = ("q",)
    learns = True
    delimited = False

    def segments(self, record, dialect=None):
        return TEMPLATE.segments(record, dialect)

    def prompt(self, record, dialect=None):
        return TEMPLATE.prompt(record, dialect)

    def stop_tokens(self, dialect):
        return ()

    def chat_template(self, dialect):
        return None


@attrs.frozen
class Peeks(Around):
    """Writes the answer's length into the prompt."""

    def prompt(self, record, dialect=None):
        return [lk.Segment(f"({len(record['a'])}) "), *super().prompt(record, dialect)]


@attrs.frozen
class Reads(Around):
    """Reads a column that it does not name."""

    def segments(self, record, dialect=None):
        return [lk.Segment(record["more"]), *super().segments(record, dialect)]


@attrs.frozen
class Changes(Around):
    """Strips the record's own column."""

    def segments(self, record, dialect=None):
        record["a"] = record["a"].strip() + "!"
        return super().segments(record, dialect)


@attrs.frozen
class Counts(Around):
    """Numbers its texts, so that no text is written twice."""

    counter = itertools.count()

    def segments(self, record, dialect=None):
        return [lk.Segment(f"{next(self.counter)}. "), *super().segments(record, dialect)]


@attrs.frozen
class Asks(Around):
    """Ends the prompt with a space that training does not have."""

    def prompt(self, record, dialect=None):
        return [*super().prompt(record, dialect), lk.Segment(" ")]


@attrs.frozen
class Mute(Around):
    """Leaves the question out of the prompt."""

    def prompt(self, record, dialect=None):
        return [lk.Segment("Q: \nA:")]


@attrs.frozen
class Backwards(Around):
    """Asks in words that training never showed."""

    def prompt(self, record, dialect=None):
        return [lk.Segment(f"{record['q'][::-1]} :A")]


@attrs.frozen
class Trusts(Around):
    """Lets control tokens in a record act."""

    def segments(self, record, dialect=None):
        found = super().segments(record, dialect)
        return [attrs.evolve(part, trusted=not part.learn) for part in found]

    def prompt(self, record, dialect=None):
        return [attrs.evolve(part, trusted=True) for part in super().prompt(record, dialect)]


@attrs.frozen
class Invents(Around):
    """Answers what the record leaves blank."""

    def segments(self, record, dialect=None):
        answer = record["a"].strip() or "I do not know"
        return super().segments({**record, "a": answer}, dialect)


@attrs.frozen
class Fails(Around):
    """Takes a second word for granted."""

    def segments(self, record, dialect=None):
        record["q"].split(" ")[7]
        return super().segments(record, dialect)


@attrs.frozen
class Forgets(Around):
    """Knows something that JSON does not."""

    prefix: str = attrs.field(default="", eq=False, init=False)

    def __attrs_post_init__(self):
        object.__setattr__(self, "prefix", f"{next(_births)} ")

    def segments(self, record, dialect=None):
        return [lk.Segment(self.prefix), *super().segments(record, dialect)]

    def prompt(self, record, dialect=None):
        return [lk.Segment(self.prefix), *super().prompt(record, dialect)]


_births = itertools.count()


@attrs.frozen
class ShiftedCollator(lk.CausalCollator):
    """Shifts labels, which the model's head does, too."""

    def encode(self, segments, tokenizer, *, delimited):
        row = super().encode(segments, tokenizer, delimited=delimited)
        return attrs.evolve(row, labels=np.append(row.labels[1:], IGNORE))


@attrs.frozen
class WrongPartCollator(lk.CausalCollator):
    """Learns the question in place of the answer."""

    def encode(self, segments, tokenizer, *, delimited):
        row = super().encode(segments, tokenizer, delimited=delimited)
        return attrs.evolve(row, labels=np.where(row.labels == IGNORE, row.input_ids, IGNORE))


@attrs.frozen
class EndlessCollator(lk.CausalCollator):
    """Masks the end of the answer, as labels masked by the pad token's id do."""

    def encode(self, segments, tokenizer, *, delimited):
        row = super().encode(segments, tokenizer, delimited=delimited)
        labels = np.where(row.labels == tokenizer.eos_id, IGNORE, row.labels)
        return attrs.evolve(row, labels=labels)


@attrs.frozen
class PaddingCollator(lk.CausalCollator):
    """Learns padding."""

    def collate(self, rows, pad_id):
        batch = super().collate(rows, pad_id)
        labels = np.where(batch["attention_mask"] == 0, pad_id, batch["labels"])
        return {**batch, "labels": labels}


@attrs.frozen
class OtherSourceCollator(lk.Seq2SeqCollator):
    """Asks about a source that is not the one it learns from."""

    def prompt(self, segments, tokenizer, *, delimited):
        return super().prompt(segments, tokenizer, delimited=delimited)[1:]


@attrs.frozen
class UnframedCollator(lk.MaskedCollator):
    """Asks without the tokens that frame what it learns."""

    def prompt(self, segments, tokenizer, *, delimited):
        return super().prompt(segments, tokenizer, delimited=True)


@attrs.frozen
class FirstTokenLoss:
    """Sees the first learned token of each row, and none of the rest."""

    families = frozenset(lk.Family)

    def prepare(self, tokenizer):
        return self

    def count(self, labels):
        return (labels != IGNORE).any(dim=1).sum()

    def total(self, logits, labels, input_ids, attention_mask):
        import torch

        first = (labels != IGNORE).int().argmax(dim=1)
        rows = torch.arange(len(labels))
        return torch.nn.functional.cross_entropy(
            logits[rows, first], labels[rows, first], reduction="sum"
        )


@attrs.frozen
class FickleDecoder:
    """Reads otherwise where there is torch."""

    families = frozenset({lk.Family.CAUSAL})
    stop = ()

    def read(self, text):
        return text.strip().upper() if sys.modules.get("torch") else text.strip()


@attrs.frozen
class ForgetfulDecoder:
    """Reads no answer twice in one way."""

    families = frozenset({lk.Family.CAUSAL})
    stop = ()
    counter = itertools.count()

    def read(self, text):
        return [text, next(self.counter)]


@attrs.frozen
class LoudDecoder:
    """Reads something else than the record says."""

    families = frozenset({lk.Family.CAUSAL})
    stop = ()

    def read(self, text):
        return text.strip().upper()


@attrs.frozen
class JsonDecoder:
    """Keeps all promises: the answer is what the JSON around it says."""

    families = frozenset({lk.Family.CAUSAL})
    stop = ()

    def read(self, text):
        try:
            return json.loads(text)["a"]
        except ValueError:
            return ""


@attrs.frozen
class BlindDecoder:
    """Fills masks without looking at the logits."""

    families = frozenset({lk.Family.MASKED})
    stop = ()

    def read(self, text):
        return text

    def fill(self, input_ids, logits, tokenizer):
        return "the"


@lk.hookimpl
def lmkit_components() -> Iterable[type]:
    return [
        found
        for found in globals().values()
        if isinstance(found, type) and found.__module__ == __name__ and found is not Around
    ]


def task(**parts: Any) -> lk.Task:
    """Return a task that keeps all promises, but for what is given."""
    usual = {
        "name": "broken",
        "formatter": TEMPLATE,
        "collator": lk.CausalCollator(max_length=256),
        "decoder": lk.TextDecoder(),
    }
    return lk.Task(**{**usual, **parts})
