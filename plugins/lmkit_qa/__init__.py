"""The built-in task `qa`: a question and its answer, as Korean-marked prompt and completion."""

from collections.abc import Iterable

from lmkit import CausalCollator, Generation, Task, TextDecoder, context, hookimpl, target

QA = Task(
    name="qa",
    description="Questions and answers: the columns prompt and completion.",
    formatter=context("질문: {prompt}\n답변:") + target(" {completion}"),
    collator=CausalCollator(max_length=256),
    decoder=TextDecoder(),
    generation=Generation(max_new_tokens=64),
)


@hookimpl
def lmkit_tasks() -> Iterable[Task]:
    """Offer `qa`."""
    return [QA]
