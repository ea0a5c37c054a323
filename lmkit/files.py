"""Write files and folders whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lmkit.errors import LmkitError, OutputExists


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content; a reader sees the old text or the new one, nothing between.

    A link stays, and what it leads to is replaced. A device or a pipe is written to: it cannot be
    replaced.

    Raises:
        LmkitError: the disk refuses; what was there before is untouched.
    """
    # pathlib's own would raise an OSError of a name that is too long, say.
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        _write_to(path, text)
        return
    place = Path(os.path.realpath(path))
    part = place.with_name(f".{place.name}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, place)
    except OSError as error:
        raise LmkitError(f"'{path}' cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def folder_for(path: Path) -> None:
    """Make the folder that a file is to be in.

    Raises:
        LmkitError: the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LmkitError(f"'{path.parent}' cannot be made: {error.strerror}") from error


def _write_to(path: Path, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise LmkitError(f"'{path}' cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def new_folder(path: Path, *, force: bool = False, marker: str | None = None) -> Iterator[Path]:
    """Give a folder to fill, beside its place, and rename it into place when all went well.

    If anything fails, what was filled so far is removed and what stood at `path` is untouched.

    Args:
        path: where the folder is to be.
        force: whether it may replace what is there.
        marker: a file that what is replaced must hold, so that `force` never takes another's folder.
    Raises:
        OutputExists: something is there and `force` was not given.
        LmkitError: the disk refuses.
    """
    check_free(path, force=force, marker=marker)
    path = path.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise LmkitError(f"'{path.parent}' cannot be written: {error.strerror}") from error
    try:
        yield part
        os.chmod(part, 0o777 & ~_umask())
        # Another process may have taken the place meanwhile.
        check_free(path, force=force, marker=marker)
        _swap(part, path)
    except LmkitError:
        raise
    except OSError as error:
        raise LmkitError(f"'{path}' cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_free(path: Path, *, force: bool, marker: str | None = None) -> None:
    """Refuse an output that is already there, before any work is done for it; see `new_folder`."""
    if not (path.is_file() or (path.is_dir() and any(path.iterdir()))):
        return
    if not force:
        raise OutputExists(path, remedy="choose another output, or replace it with --force")
    if marker is not None and not (path / marker).is_file():
        raise OutputExists(
            path, remedy=f"it has no {marker}, so --force leaves it alone; choose another output"
        )


@contextlib.contextmanager
def no_empty_folder(path: Path) -> Iterator[None]:
    """Where what is done fails, remove a folder that it made and left empty."""
    was_there = path.exists()
    try:
        yield
    except BaseException:
        if not was_there:
            with contextlib.suppress(OSError):  # it is not there, or has something in it
                path.rmdir()
        raise


def sha256_of(path: Path) -> str:
    """Return a file's sha256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _swap(part: Path, path: Path) -> None:
    """Put `part` at `path`; an old folder steps aside first and is removed last."""
    if not path.exists():
        os.replace(part, path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    old = aside / path.name
    try:
        os.replace(path, old)
        os.replace(part, path)
    except BaseException:  # Ctrl-C, too, must not cost the old folder
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise
    finally:
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
