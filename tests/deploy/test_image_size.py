"""The image's size is the sum of its parts, and each part is measured where it lies."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "deploy" / "image_size.py"


@pytest.fixture(scope="module")
def image_size():
    spec = importlib.util.spec_from_file_location("image_size", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def environment(tmp_path):
    """An environment of a large package, a small one, and a file that is nobody's."""
    packages = tmp_path / "environment" / "lib" / "python3.11" / "site-packages"
    for name, size in {"large": 3_000_000, "small": 200_000}.items():
        info = packages / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        (packages / f"{name}.py").write_bytes(b"#" * size)
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")
        (info / "RECORD").write_text(f"{name}.py,,\n")
    (packages.parent / "stray.py").write_bytes(b"#" * 100_000)
    return tmp_path / "environment"


def test_large_packages_have_a_line_and_the_small_ones_one_together(
    image_size, environment, tmp_path
):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "model.onnx").write_bytes(b"." * 5_000_000)

    rows = dict(image_size.table(environment, bundle))

    assert rows["large"] == pytest.approx(3, abs=0.01)
    assert rows["1 smaller packages"] == pytest.approx(0.3, abs=0.01)
    assert rows["the bundle (bundle)"] == 5
    assert rows["the image"] == pytest.approx(image_size.DEBIAN + image_size.PYTHON + 8.3, abs=0.02)


def test_a_base_is_measured_without_what_slim_leaves_out(image_size, environment, tmp_path):
    base = tmp_path / "base"
    for name in ("usr/bin/sh", "usr/share/doc/sh/copyright", "var/cache/apt/archives/sh.deb"):
        (base / name).parent.mkdir(parents=True)
        (base / name).write_bytes(b"." * 1_000_000)
    (base / "usr/bin/bash").hardlink_to(base / "usr/bin/sh")

    rows = dict(image_size.table(environment, tmp_path / "base", base))

    assert rows["Debian bookworm, slim"] == 1
