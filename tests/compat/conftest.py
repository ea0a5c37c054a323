import pytest

from compat.archives import ARCHIVES, unpacked


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda archive: archive.stem)
def saved(request, tmp_path_factory):
    """Return each archive in turn, unpacked; it is only read."""
    return unpacked(request.param, tmp_path_factory.mktemp(request.param.stem))
