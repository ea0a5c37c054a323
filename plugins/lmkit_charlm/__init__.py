"""The built-in task `char-lm`: one text, read and continued character by character."""

from collections.abc import Iterable

from lmkit import BlockCollator, Generation, Task, TextDecoder, context, hookimpl, target

# Training reads the column text; at inference there is none, and the prompt is continued. Drawing
# from the whole distribution (temperature 1) is how such a model is meant to be sampled.
CHAR_LM = Task(
    name="char-lm",
    description="A text, such as a .txt file, continued from its opening in the column prompt.",
    formatter=context("{prompt}").when("prompt") + target("{text}"),
    collator=BlockCollator(block_size=256),
    decoder=TextDecoder(strip=False),
    generation=Generation(max_new_tokens=500, temperature=1.0),
)


@hookimpl
def lmkit_tasks() -> Iterable[Task]:
    """Offer `char-lm`."""
    return [CHAR_LM]
