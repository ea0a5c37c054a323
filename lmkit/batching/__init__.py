"""Answer many requests at a time: they join and leave the batch that is being written at every token.

A request is prepared (the task's formatter and the tokenizer make its prompt), submitted, and read
from its ticket, as it is written or when it is whole. One thread of the engine's own computes:
whatever waits takes a free row at the next step, prompts are read a part at a time between the steps
of those that write, and who is finished or gone leaves its row to the next.
"""

from lmkit.batching.engine import Engine, open_engine
from lmkit.batching.limits import Limits, Stats
from lmkit.batching.requests import Request
from lmkit.batching.scores import TokenScore
from lmkit.batching.tickets import Ticket, Update
from lmkit.batching.turns import Turn

__all__ = [
    "Engine",
    "Limits",
    "Request",
    "Stats",
    "Ticket",
    "TokenScore",
    "Turn",
    "Update",
    "open_engine",
]
