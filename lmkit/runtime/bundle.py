"""Open a bundle: check that it is whole before anything in it is used."""

from __future__ import annotations

from pathlib import Path

import attrs

from lmkit.errors import BundleError
from lmkit.files import sha256_of
from lmkit.saving.manifest import Manifest, read_manifest
from lmkit.tokenizing import Tokenizer


@attrs.frozen
class Bundle:
    """A bundle on disk.

    Attributes:
        path: its folder.
        manifest: its `lmkit.json`, at the precision that was asked for.
    """

    path: Path
    manifest: Manifest

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, read anew."""
        return Tokenizer.load(self.path)


def open_bundle(
    path: str | Path, *, precision: str | None = None, checksums: bool = True
) -> Bundle:
    """Return a bundle whose files are all there and as they were written.

    Args:
        path: its folder.
        precision: which of its precisions the manifest is to be at; None for the default one.
        checksums: whether to read every byte; sizes are compared in any case.
    Raises:
        BundleError: a file is missing, of another size, or changed; the text names it.
        PluginError: a plugin is missing.
        UnknownName: it has no such precision.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise BundleError(f"there is no bundle '{path}'")
    bundle = Bundle(folder, read_manifest(folder))
    root = folder.resolve()
    for name, entry in bundle.manifest.files.items():
        file = folder / name
        if not file.resolve().is_relative_to(root):
            raise BundleError(f"'{path}' names the file '{name}', which is outside of it")
        if not file.is_file():
            raise BundleError(f"'{path}' is damaged: '{name}' is missing")
        if file.stat().st_size != entry.size_bytes:
            raise BundleError(
                f"'{path}' is damaged: '{name}' has {file.stat().st_size} bytes, "
                f"{entry.size_bytes} were written"
            )
        if checksums and sha256_of(file) != entry.sha256:
            raise BundleError(
                f"'{path}' is damaged: '{name}' is not what was written (its sha256 differs); "
                "copy the bundle again, or export it again"
            )
    manifest = bundle.manifest
    for graph in (manifest.graph, *(manifest.at(name).graph for name in manifest.precisions)):
        if any(ports.file not in manifest.files for ports in graph.graphs):
            raise BundleError(f"'{path}' has no checksum for its graph")
        draft = getattr(graph, "draft", None)
        if draft is not None and draft not in manifest.files:
            raise BundleError(f"'{path}' has no checksum for '{draft}', which checks drafts")
    prefix = getattr(bundle.manifest.graph, "prefix", None)
    if prefix is not None and prefix.file not in bundle.manifest.files:
        raise BundleError(f"'{path}' has no checksum for '{prefix.file}', its prefix")
    return Bundle(folder, manifest.at(precision))
