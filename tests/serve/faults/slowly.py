"""`lmkit serve` with a model that takes its time: each step of the engine waits STEP_S seconds first."""

import os
import time

from lmkit.batching.engine import Engine
from lmkit.cli.main import main

STEP_S = float(os.environ.get("STEP_S", "0"))
step = Engine._step


def step_slowly(engine):
    time.sleep(STEP_S)
    step(engine)


if __name__ == "__main__":
    Engine._step = step_slowly
    main()
