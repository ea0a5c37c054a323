"""The built-in task `alpaca`: an instruction, perhaps with an input, and the response to it."""

from collections.abc import Iterable

from lmkit import CausalCollator, Generation, Task, TextDecoder, context, hookimpl, target

# Source: the two prompts of Stanford Alpaca (tatsu-lab/stanford_alpaca, train.py, PROMPT_DICT), with
# the line break behind "### Response:" that alpaca-lora and most tools since have added.
ALPACA = Task(
    name="alpaca",
    description="Instructions in Alpaca's format; the variant without input where it is blank.",
    formatter=(
        context("Below is an instruction that describes a task")
        + context(", paired with an input that provides further context").when("input")
        + context(
            ". Write a response that appropriately completes the request.\n\n"
            "### Instruction:\n{instruction}\n\n"
        )
        + context("### Input:\n{input}\n\n").when("input")
        + context("### Response:\n")
        + target("{output}")
    ),
    collator=CausalCollator(max_length=512),
    decoder=TextDecoder(),
    generation=Generation(max_new_tokens=256),
)


@hookimpl
def lmkit_tasks() -> Iterable[Task]:
    """Offer `alpaca`."""
    return [ALPACA]
