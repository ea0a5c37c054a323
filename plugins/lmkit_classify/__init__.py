"""The built-in task `classify`: Yes or No to a question about a text, or other labels in a variant."""

from collections.abc import Iterable

from lmkit import CausalCollator, LabelDecoder, Task, context, hookimpl, target
from lmkit.metrics import Accuracy, MacroF1

# Its variants keep the rest and change what they ask and what may be answered:
#     classify.evolve(name="reviews", decoder=LabelDecoder(labels=("긍정", "부정")),
#                     formatter=context("리뷰: {text}\n감정:") + target(" {label_text}"))
CLASSIFY = Task(
    name="classify",
    description="One of a few labels, Yes or No: a text, perhaps with a question, and the answer.",
    formatter=(
        context("{text}\n")
        + context("Question: {question}\n").when("question")
        + context("Answer:")
        + target(" {answer}")
    ),
    collator=CausalCollator(max_length=512),
    decoder=LabelDecoder(labels=("Yes", "No")),
    metrics=(Accuracy(), MacroF1()),
)


@hookimpl
def lmkit_tasks() -> Iterable[Task]:
    """Offer `classify`."""
    return [CLASSIFY]
