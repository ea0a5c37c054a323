from pathlib import Path

import pytest
from runtime.toybundle import write_bundle

from .served import Served

SLOWLY = Path(__file__).with_name("slowly.py")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A bundle of the task `toy`, whose context holds 64 tokens."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture(scope="module")
def quick(bundle):
    """`lmkit serve` as a user starts it, but that it reads large requests."""
    flags = ("--port", 0, "--json", "--max-body", "16MiB")
    with Served("-m", "lmkit", "serve", bundle, *flags) as server:
        yield server


@pytest.fixture
def serving(bundle):
    """Return a function that starts `lmkit serve` with flags, each step taking a while."""
    servers = []

    def serving(*flags, step_s=0.05, **environ):
        base = (SLOWLY, "serve", bundle, "--port", 0, "--json", "--log-format", "json")
        servers.append(Served(*base, *flags, STEP_S=str(step_s), **environ))
        return servers[-1]

    yield serving
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture(scope="module")
def slow(bundle):
    """A server whose model writes fifty tokens a second."""
    flags = (SLOWLY, "serve", bundle, "--port", 0, "--json")
    with Served(*flags, STEP_S="0.02") as server:
        yield server
