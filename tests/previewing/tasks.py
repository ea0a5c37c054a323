"""Tasks whose formatters go wrong in one way each, as a plugin's might."""

import attrs
from toys import toy_backend, wordpiece

import lmkit as lk
from lmkit.formatting import Segment

QUESTION = lk.context("{prompt}:") + lk.target("{completion}")
NO_SYSTEM = (
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@attrs.frozen
class Trusting:
    """Takes control tokens from the record, and what follows the answer as not learned."""

    columns = ("prompt", "completion", "after")
    prompt_columns = ("prompt",)
    learns = True
    delimited = True

    def segments(self, record, dialect=None):
        answer = Segment(record["completion"], learn=True, trusted=True)
        return [*self.prompt(record), answer, Segment(record.get("after", ""), trusted=True)]

    def prompt(self, record, dialect=None):
        return [Segment(record["prompt"], trusted=True)]

    def stop_tokens(self, dialect):
        return ()

    def chat_template(self, dialect):
        return None


@attrs.frozen
class Tidying(Trusting):
    """Asks without the white space that it was trained with."""

    delimited = False

    def prompt(self, record, dialect=None):
        return [Segment(record["prompt"].strip())]

    def segments(self, record, dialect=None):
        return [Segment(record["prompt"]), Segment(record["completion"], learn=True)]


def qa(formatter=QUESTION, max_length=64):
    return lk.Task(
        name="asked",
        formatter=formatter,
        collator=lk.CausalCollator(max_length=max_length),
        decoder=lk.TextDecoder(),
    )


def plain():
    return lk.Tokenizer(toy_backend().to_str(), special={"eos_token": "<|endoftext|>"})


def opened():
    """Return a tokenizer with a BOS."""
    special = {"bos_token": "<s>", "eos_token": "<|endoftext|>"}
    return lk.Tokenizer(toy_backend().to_str(), special=special)


CHAT = lk.get_task("chat").evolve(formatter=lk.Chat(template="chatml"))
DROPS = lk.get_task("chat").evolve(formatter=lk.Chat(template=NO_SYSTEM))

# finding -> its level, the task that finds it in data/NAME/found.jsonl and not in clean.jsonl, the
# tokenizer, and how many rows it counts.
FINDINGS = {
    "answer-cut": ("error", qa(max_length=16), plain, 2),
    "context-cut": ("warning", qa(max_length=16), plain, 1),
    "control-tokens-in-data": ("warning", qa(), plain, 1),
    "double-bos": ("error", qa(Trusting()), opened, 1),
    "duplicate-rows": ("warning", qa(), plain, 1),
    "empty-answer": ("warning", qa(), plain, 2),
    "eos-never-learned": ("error", qa(Trusting()), plain, 1),
    "mostly-padding": ("note", qa(), plain, 3),
    "nothing-to-learn": ("error", lk.get_task("mlm"), wordpiece, 2),
    "prompt-not-a-prefix": ("error", qa(Tidying()), plain, 1),
    "prompt-too-long": ("warning", qa(max_length=16), plain, 1),
    "rows-dropped": ("warning", qa(), plain, 1),
    "same-answer": ("warning", qa(), plain, 20),
    "text-dropped": ("warning", DROPS, plain, 1),
    "unanswered-turn": ("note", CHAT, plain, 1),
    "unknown-tokens": ("warning", lk.get_task("mlm"), wordpiece, 1),
}
