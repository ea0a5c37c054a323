"""The built-in task `chat`: conversations in a `messages` column, in the tokenizer's own template."""

from collections.abc import Iterable

from lmkit import CausalCollator, Chat, Generation, Task, TextDecoder, hookimpl

CHAT = Task(
    name="chat",
    description="Conversations: a list of messages, answered as the tokenizer's chat template says.",
    formatter=Chat(messages="messages"),
    collator=CausalCollator(max_length=1024),
    decoder=TextDecoder(),
    generation=Generation(max_new_tokens=256),
)


@hookimpl
def lmkit_tasks() -> Iterable[Task]:
    """Offer `chat`."""
    return [CHAT]
