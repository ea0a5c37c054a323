"""The DSL as people write it: never run, only read by a type checker, which has nothing to say."""

from collections.abc import Mapping, Sequence
from typing import Any, assert_type

import click

import lmkit as lk
from lmkit.formatting import PLAIN, Template
from lmkit.tokenizing import Dialect

Record = Mapping[str, Any]

# A task, and its variants.
ko_qa = lk.Task(
    name="ko-qa",
    formatter=lk.context("질문: {prompt}\n답변:") + lk.target(" {completion}"),
    collator=lk.CausalCollator(max_length=256, pack=True),
    decoder=lk.TextDecoder(stop=("\n",), strip=True),
    generation=lk.Generation(max_new_tokens=64, temperature=0.3, top_p=0.9),
    metrics=[lk.ExactMatch()],
    loss=lk.keytoken_weighted(tokens=("예", "아니요"), alpha=2.0),
)
assert_type(lk.context("{question}").when("question"), Template)
assert_type(ko_qa.evolve(name="ko-qa-long", collator=lk.CausalCollator(max_length=1024)), lk.Task)
assert_type(ko_qa.rename(question="prompt"), lk.Task)
assert_type(ko_qa.where(lambda record: bool(record["completion"])), lk.Task)
assert_type(ko_qa.map(lambda record: {**record, "prompt": record["prompt"].strip()}), lk.Task)
assert_type(ko_qa.columns, tuple[str, ...])
assert_type(ko_qa.family, lk.Family)

# Every family.
sentiment = lk.Task(
    name="sentiment",
    formatter=lk.context("{text}\n") + lk.target("{label}"),
    collator=lk.CausalCollator(max_length=128),
    decoder=lk.LabelDecoder(labels=("Yes", "No")),
)
fill = lk.Task(
    name="fill",
    formatter=lk.context("{text}"),
    collator=lk.MaskedCollator(max_length=128, mlm_probability=0.15, whole_word=True),
    decoder=lk.FillMaskDecoder(top_k=5),
)
summary = lk.Task(
    name="summary",
    formatter=lk.context("{article}") + lk.target("{summary}"),
    collator=lk.Seq2SeqCollator(max_source_length=512, max_target_length=64),
    decoder=lk.TextDecoder(),
)
chat = lk.Task(
    name="turns",
    formatter=lk.Chat.of(system="Be short.", user="{question}", assistant="{answer}"),
    collator=lk.CausalCollator(max_length=512),
    decoder=lk.TextDecoder(),
)
letters = lk.Task(
    name="letters",
    formatter=lk.target("{text}"),
    collator=lk.BlockCollator(block_size=64),
    decoder=lk.TextDecoder(),
)


# A plugin's own parts: any class with the protocol's methods, by no inheritance.
class Shouting:
    """A formatter that learns the answer in capitals."""

    columns = ("question", "answer")
    prompt_columns = ("question",)
    learns = True
    delimited = False

    def segments(self, record: Record, dialect: Dialect = PLAIN) -> list[lk.Segment]:
        return [*self.prompt(record), lk.Segment(str(record["answer"]).upper(), learn=True)]

    def prompt(self, record: Record, dialect: Dialect = PLAIN) -> list[lk.Segment]:
        return [lk.Segment(str(record["question"]))]

    def stop_tokens(self, dialect: Dialect) -> tuple[str, ...]:
        return ()

    def chat_template(self, dialect: Dialect) -> str | None:
        return None


class LastLine:
    """A decoder that reads the last line, upside down."""

    families = frozenset({lk.Family.CAUSAL, lk.Family.SEQ2SEQ})
    stop = ("###",)

    def read(self, text: str) -> str:
        return text.splitlines()[-1][::-1]


class Length:
    """A metric that compares lengths."""

    def score(self, answers: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        return {"length": sum(map(len, answers)) / sum(map(len, references))}


own = lk.Task(
    name="own",
    formatter=Shouting(),
    collator=lk.CausalCollator(max_length=64),
    decoder=LastLine(),
    metrics=(Length(),),
)


@lk.hookimpl
def lmkit_tasks() -> list[lk.Task]:
    return [ko_qa, sentiment, fill, summary, chat, letters]


@lk.hookimpl
def lmkit_components() -> list[type]:
    return [Shouting]


@click.command()
def syllables() -> None:
    """Count syllables."""


@lk.hookimpl
def lmkit_commands() -> list[click.Command]:
    return [syllables]


def the_whole_path() -> None:
    """What README shows: train, measure, export, answer."""
    run = lk.train(
        ko_qa,
        model=lk.scratch("gpt2", n_layer=2, n_embd=64),
        data="train.jsonl",
        output="runs/ko-qa",
        adapter=lk.lora(r=8),
        num_train_epochs=3,
        learning_rate=3e-5,
    )
    assert_type(lk.evaluate(run, data="test.jsonl"), dict[str, float])
    lk.export(run, output="bundles/ko-qa", precision="int4", data="test.jsonl")

    ask = lk.load("bundles/ko-qa")
    assert_type(ask({"prompt": "안녕하세요?"}, max_new_tokens=32, temperature=0), lk.Answer)
    for piece in ask.stream({"prompt": "당신의 이름은?"}):
        print(piece, end="")
    for answer in ask.batch([{"prompt": "하나"}, {"prompt": "둘"}]):
        assert_type(answer, lk.Answer)

    both = lk.mix({ko_qa: 3, "alpaca": 1}, seed=0)
    lk.train(both, model="runs/ko-qa", data={"ko-qa": "a.jsonl", "alpaca": "b.jsonl"}, output="c")
    lk.chain("bundles/summary", "bundles/sentiment")({"article": "..."})
    for row in lk.encode(ko_qa, [{"prompt": "a", "completion": "b"}], "folder"):
        assert_type(row, lk.Encoded)
    lk.prompt_ids("chat", {"messages": []}, "folder")
    for task in lk.tasks():
        print(task)
