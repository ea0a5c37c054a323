"""Misuse that a type checker refuses before anything runs: `# E:` says what of the line below it."""

from typing import Any

import lmkit as lk

prompt = lk.context("{question}")
answer = lk.target("{answer}")

# Names that are misspelt, missing, or deprecated.
# E: Missing named argument "decoder" for "Task"
lk.Task(name="qa", formatter=prompt + answer, collator=lk.CausalCollator(max_length=8))
# E: Unexpected keyword argument "formater" for "Task"; did you mean "formatter"?
lk.Task(
    name="qa",
    formater=prompt,
    formatter=prompt + answer,
    collator=lk.CausalCollator(max_length=8),
    decoder=lk.TextDecoder(),
)
# E: Unexpected keyword argument "mls_probability" for "MaskedCollator"; did you mean "mlm_probability"?
lk.MaskedCollator(max_length=8, mls_probability=0.15)
# E: Unexpected keyword argument "max_len" for "CausalCollator"; did you mean "max_length"?
lk.CausalCollator(max_len=8)
# E: Unexpected keyword argument "max_token" for "Generation"; did you mean
lk.Generation(max_token=8)
# E: Unexpected keyword argument "rank"
lk.lora(rank=8)
# E: Module has no attribute "Contxt"
lk.Contxt("{question}")
# E: Module has no attribute "Collator"
was = lk.Collator

# Parts of another kind, or in another's place.
lk.Task(
    name="qa",
    # E: "formatter" to "Task" has incompatible type "str"; expected "Formatter"
    formatter="Q: {question}",
    # E: "collator" to "Task" has incompatible type "TextDecoder"; expected "Collator"
    collator=lk.TextDecoder(),
    # E: "decoder" to "Task" has incompatible type "MaskedCollator"; expected "Decoder"
    decoder=lk.MaskedCollator(),
)
lk.Task(
    name="qa",
    formatter=prompt + answer,
    # E: "collator" to "Task" has incompatible type "type[CausalCollator]"; expected "Collator"
    collator=lk.CausalCollator,
    decoder=lk.TextDecoder(),
    # E: "loss" to "Task" has incompatible type "str"; expected "LossFunction | None"
    loss="keytoken",
    # E: "metrics" to "Task" has incompatible type "ExactMatch"; expected "Iterable[Metric]"
    metrics=lk.ExactMatch(),
)
# E: Unsupported operand types for + ("Template" and "str")
prompt + "{answer}"
# E: Argument 1 to "context" has incompatible type "int"; expected "str"
lk.context(3)
# E: "max_new_tokens" to "Generation" has incompatible type "str"; expected "SupportsIndex"
lk.Generation(max_new_tokens="8")
# E: "temperature" to "Generation" has incompatible type "str"; expected "SupportsFloat"
lk.Generation(temperature="0.7")
# E: "top_k" to "FillMaskDecoder" has incompatible type "str"; expected "SupportsIndex"
lk.FillMaskDecoder(top_k="5")
# E: "labels" to "LabelDecoder" has incompatible type "tuple[int, int]"; expected "str | Iterable[str]"
lk.LabelDecoder(labels=(1, 0))

# Values are frozen.
# E: Property "pieces" defined in "Template" is read-only
answer.pieces = ()
# E: Property "temperature" defined in "Generation" is read-only
lk.Generation().temperature = 0.0


# A part of one's own that lacks a method, or has one of another shape.
class Wordless:
    """A decoder that cannot read."""

    families = frozenset({lk.Family.CAUSAL})
    stop = ()


class Bare:
    """A metric that returns a number without a name."""

    def score(self, answers: Any, references: Any) -> float:
        return 0.0


lk.Task(
    name="qa",
    formatter=prompt + answer,
    collator=lk.CausalCollator(max_length=8),
    # E: "decoder" to "Task" has incompatible type "Wordless"; expected "Decoder"
    decoder=Wordless(),
    # E: incompatible type "Bare"; expected "Metric"
    metrics=[Bare()],
)

# Verbs.
task = lk.get_task("qa")
# E: Missing named argument "output" for "train"
lk.train(task, model="gpt2", data="train.jsonl")
# E: Missing named argument "data" for "evaluate"
lk.evaluate("runs/qa")
ask = lk.load("bundles/qa")
# E: has no attribute "reply"
ask.reply({"question": "?"})
# E: incompatible type "str"; expected "Mapping[str, Any]"
ask("?")
# E: Argument 1 to "mix" has incompatible type "list[Task | Mixture]"; expected "Mapping[Task | str, float]"
lk.mix([task])
# E: incompatible type "str": "str"; expected "Mapping[str, Any]": "str"
lk.encode("qa", {"question": "?"}, "folder")
