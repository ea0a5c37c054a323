"""The built-in task `mlm`: a text, some tokens of which are hidden and guessed."""

from collections.abc import Iterable

from lmkit import FillMaskDecoder, MaskedCollator, Task, context, hookimpl

MLM = Task(
    name="mlm",
    description="Masked language modelling: the column text, in which hidden tokens are guessed.",
    formatter=context("{text}"),
    collator=MaskedCollator(max_length=128),
    decoder=FillMaskDecoder(top_k=5),
)


@hookimpl
def lmkit_tasks() -> Iterable[Task]:
    """Offer `mlm`."""
    return [MLM]
