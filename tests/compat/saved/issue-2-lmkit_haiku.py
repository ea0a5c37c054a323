"""The task `haiku`: a subject becomes three lines.

A plugin is one module that imports lmkit's public names. It is imported wherever its task is used,
the torch-free runtime included, so it imports nothing heavy.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from typing import TextIO

import attrs
import click

from lmkit import CausalCollator, Family, Generation, LmkitError, Task, context, hookimpl, target

# A block of Hangul; or English vowels, with the silent e that may end their word.
SYLLABLE = re.compile(r"[가-힣]|[aeiouy]+(?:[b-df-hj-np-tv-xz]+(?<![^aeiouy]l)e\b)?")


@attrs.frozen(kw_only=True)
class HaikuDecoder:
    """The answer is a list of lines, and whatever comes after the last of them is dropped.

    >>> HaikuDecoder(lines=2).read("파도가 오고\\n\\n 발자국을 지우고\\n다시 떠난다")
    ['파도가 오고', '발자국을 지우고']
    """

    lines: int = attrs.field(default=3, validator=attrs.validators.ge(1))

    families = frozenset({Family.CAUSAL, Family.SEQ2SEQ})
    stop = ("\n\n",)  # a blank line ends the poem, and the work of writing it

    def read(self, text: str) -> list[str]:
        """Return the first lines that are not blank."""
        return [line.strip() for line in text.splitlines() if line.strip()][: self.lines]


HAIKU = Task(
    name="haiku",
    description="Three-line poems: the columns subject and haiku.",
    formatter=context("subject: {subject}\nhaiku:\n") + target("{haiku}"),
    collator=CausalCollator(max_length=96),
    decoder=HaikuDecoder(),
    generation=Generation(max_new_tokens=48),
)


def syllables(line: str) -> int:
    """Count syllables: exactly in Hangul, where each block is one; nearly in English.

    >>> syllables("다시 떠난다"), syllables("one apple and a stone")
    (5, 6)
    """
    # A Mac may write a block as its two or three letters; NFC puts them together.
    return len(SYLLABLE.findall(unicodedata.normalize("NFC", line.lower())))


@click.command(epilog="Example: lmkit haiku-lines answers.jsonl")
@click.argument("file", type=click.File(encoding="utf-8"))
def haiku_lines(file: TextIO) -> None:
    """Count the syllables in each line of FILE's poems, such as 5-7-5.

    FILE has JSON lines: what 'lmkit generate --input' wrote, or the data that it read.
    """
    for number, row in enumerate(file, start=1):
        try:
            record = json.loads(row)
            poem = record["answer"]["value"] if "answer" in record else record["haiku"].splitlines()
            counts = "-".join(str(syllables(line)) for line in poem)
            click.echo(f"{counts or 'no lines'}\t{record['subject']}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LmkitError(f"{file.name}:{number}: not a subject and its haiku") from error


@hookimpl
def lmkit_tasks() -> Iterable[Task]:
    return [HAIKU]


@hookimpl
def lmkit_components() -> Iterable[type]:
    return [HaikuDecoder]


@hookimpl
def lmkit_commands() -> Iterable[click.Command]:
    return [haiku_lines]
