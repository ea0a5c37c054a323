"""The built-in task `summarize`: an article, and its summary."""

from collections.abc import Iterable

from lmkit import Generation, Seq2SeqCollator, Task, TextDecoder, context, hookimpl, target
from lmkit.metrics import Rouge

# Source: the prefix that T5 was trained with; Raffel et al. 2020, "Exploring the Limits of Transfer
# Learning with a Unified Text-to-Text Transformer", appendix D. To other models it is plain context.
SUMMARIZE = Task(
    name="summarize",
    description="A summary of an article, with T5's prefix.",
    formatter=context("summarize: {article}") + target("{summary}"),
    collator=Seq2SeqCollator(max_source_length=512, max_target_length=128),
    decoder=TextDecoder(),
    generation=Generation(max_new_tokens=64),
    metrics=(Rouge(),),
)


@hookimpl
def lmkit_tasks() -> Iterable[Task]:
    """Offer `summarize`."""
    return [SUMMARIZE]
