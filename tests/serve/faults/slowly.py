"""`lmkit serve` with a model that takes its time, and with a bug.

Each step of the engine waits STEP_S seconds first. A prompt that has the text FAILS in it makes the
engine fail as no request should.
"""

import os
import time

from lmkit.batching.engine import Engine
from lmkit.cli.main import main

STEP_S = float(os.environ.get("STEP_S", "0"))
FAILS = os.environ.get("FAILS")
step = Engine._step
prepare = Engine.prepare


def step_slowly(engine):
    time.sleep(STEP_S)
    step(engine)


def prepare_badly(engine, record, **named):
    if FAILS and FAILS in str(record):
        raise RuntimeError(f"a bug that shows {record}")
    return prepare(engine, record, **named)


if __name__ == "__main__":
    Engine._step = step_slowly
    Engine.prepare = prepare_badly
    main()
