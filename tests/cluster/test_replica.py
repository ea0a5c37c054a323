"""A replica outside of any cluster."""

import gc

import pytest

from lmkit.batching import Limits
from lmkit.cluster import replica
from lmkit.cluster.replica import Plan, Replica
from lmkit.errors import BundleError
from lmkit.serve.settings import Settings


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_one_that_cannot_open_its_bundle_tells_that_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(replica, "set_up", lambda *how, **more: None)  # logs are this process's
    plan = Plan(
        bundles=[(None, str(tmp_path / "nowhere"))],
        settings=Settings(),
        limits=Limits(),
        precision=None,
        threads=1,
        verify=False,
        log_format="text",
    )

    with pytest.raises(BundleError, match="nowhere"):
        Replica(plan, doorbell=None)
    gc.collect()
