"""Work out the image's size from its parts, where no Docker engine is at hand.

    python -m venv --without-pip /tmp/image
    python -m pip --python /tmp/image/bin/python install -c constraints.txt '.[serve]'
    python examples/deploy/image_size.py /tmp/image bundles/chat [BASE_FOLDER]

These are the Dockerfile's own steps. Sizes are bytes as they lie in the folders, in megabytes of 10^6;
what a registry sends is compressed.
"""

import sys
from importlib.metadata import distributions
from pathlib import Path

# python:3.11-slim-bookworm, in MB, where its folder is not given. Debian: `debootstrap --variant=minbase`
# with the libraries that Python wants, without what debian:bookworm-slim leaves out (below). Python: what
# its Dockerfile keeps of an installed 3.11, which is all but its tests, static libraries and bytecode.
DEBIAN, PYTHON = 86.2, 40.2

# Source: debuerreotype's scripts/.slimify-excludes, with which debian:bookworm-slim is made; and what apt
# keeps for itself, of which an image has nothing.
NOT_IN_SLIM = (
    *(f"usr/share/{name}" for name in ("doc", "groff", "info", "linda", "locale", "man")),
    *("usr/share/lintian/overrides", "var/cache/apt", "var/lib/apt/lists"),
)
FEWER = 1.0  # MB; smaller packages are one line together


def size_of(folder: Path, left_out: tuple[str, ...] = ()) -> float:
    """Return the size of a folder's files, in MB; a file with two names counts once."""
    files = {
        (found.st_dev, found.st_ino): found.st_size
        for path in folder.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and not any(path.is_relative_to(folder / name) for name in left_out)
        for found in [path.stat()]
    }
    return sum(files.values()) / 1e6


def packages(environment: Path) -> dict[str, float]:
    """Return what each package of a virtual environment takes, in MB, bytecode included."""
    [folder] = environment.glob("lib/python*/site-packages")
    return {
        package.metadata["Name"]: sum(
            package.locate_file(file).stat().st_size
            for file in package.files or ()
            if package.locate_file(file).is_file()
        )
        / 1e6
        for package in distributions(path=[str(folder)])
    }


def table(environment: Path, bundle: Path, base: Path | None = None) -> list[tuple[str, float]]:
    """Return the image's parts with their sizes in MB, and their sum as the last one."""
    debian = DEBIAN if base is None else size_of(base, NOT_IN_SLIM)
    found = sorted(packages(environment).items(), key=lambda pair: -pair[1])
    large = [(name, size) for name, size in found if size >= FEWER]
    rest = size_of(environment) - sum(size for _, size in large)
    rows = [
        ("Debian bookworm, slim", debian),
        ("Python 3.11", PYTHON),
        *large,
        (f"{len(found) - len(large)} smaller packages", rest),
        (f"the bundle ({bundle.name})", size_of(bundle)),
    ]
    return [*rows, ("the image", sum(size for _, size in rows))]


def main(environment: Path, bundle: Path, base: Path | None = None) -> None:
    rows = table(environment, bundle, base)
    width = max(len(name) for name, _ in rows)
    for name, size in rows:
        print(f"{name:<{width}}  {size:8.1f} MB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
