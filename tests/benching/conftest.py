import pytest
from runtime.toybundle import write_bundle

from lmkit.benching import sides

FAKE = """
import sys, time

class Side:
    library = "fake 1.0"
    settings = "as it is"

    def __init__(self, given):
        print("a library talks")
        if "absent" in given["model"]:
            import there_is_no_such_library
        if "unreadable" in given["model"]:
            raise ValueError("no such model")

    def run(self, work):
        print("and talks")
        if "dies" in sys.argv[1]:
            sys.stderr.write("out of luck\\n")
            import os; os._exit(7)
        if "hangs" in sys.argv[1]:
            time.sleep(60)
        if "raises" in sys.argv[1]:
            raise MemoryError("no room")
        if "fussy" in sys.argv[1] and len(work["prompts"]) > 1:
            raise ValueError("no batches")
        n, rows = work["new_tokens"], len(work["prompts"])
        times = [0.5 + 0.1 * step for step in range(n)]
        return {"times": times, "ids": [[1] * n for _ in range(rows)]}
"""


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """Return a function that makes a peer whose worker does as its name says."""
    monkeypatch.setattr(sides, "PEERS", dict(sides.PEERS))

    def peer(name, model="model"):
        worker = tmp_path / f"with_{name}.py"
        worker.write_text(FAKE, "utf-8")
        (tmp_path / model).mkdir(exist_ok=True)
        sides.PEERS[name] = sides.Peer(
            worker=str(worker), install=f"pip install {name}", model="a model"
        )
        return f"{name}={tmp_path / model}"

    return peer


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bench") / "toy")
