"""The sides of a comparison: our bundle in each precision, and the peers that can run the same model.

A peer is written `NAME[:PRECISION][=MODEL]`, such as `transformers`, `llama.cpp=model.gguf` or
`openvino:int4=folder`. The precision names what its model was made in, and steers those that choose when
they load (CTranslate2, transformers).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import attrs

from lmkit.errors import LmkitError, TaskError, UnknownName
from lmkit.family import Family

WORKERS = Path(__file__).parent / "workers"
_ALL = (Family.CAUSAL, Family.SEQ2SEQ, Family.MASKED)


@attrs.frozen(kw_only=True)
class Peer:
    """A library that a model could be served with instead.

    Attributes:
        worker: the file that runs it.
        install: how to get it.
        model: what it loads, and how that is made.
        families: what it can do.
        takes: which of what is there it loads as it is: the `model` given, the `bundle`, a `gguf`
            file given as the model, or nothing.
    """

    worker: str
    install: str
    model: str
    families: tuple[Family, ...] = (Family.CAUSAL,)
    takes: str | None = None


PEERS = {
    "transformers": Peer(
        worker="with_transformers.py",
        install="pip install 'lmkit-tasks[train]'",
        model="the model's folder, given with --model",
        families=_ALL,
        takes="model",
    ),
    "optimum": Peer(
        worker="with_optimum.py",
        install="pip install 'optimum-onnx[onnxruntime]', in an environment of its own",
        model="a folder that 'optimum-cli export onnx --model MODEL FOLDER' wrote",
        families=_ALL,
    ),
    "genai": Peer(
        worker="with_genai.py",
        install="pip install onnxruntime-genai",
        model="a folder with genai_config.json",
        takes="bundle",
    ),
    "llama.cpp": Peer(
        worker="with_llamacpp.py",
        install="CMAKE_ARGS=-DGGML_NATIVE=ON pip install llama-cpp-python",
        model="a .gguf file",
        takes="gguf",
    ),
    "openvino": Peer(
        worker="with_openvino.py",
        install="pip install openvino-genai, in an environment of its own",
        model="a folder that 'optimum-cli export openvino --model MODEL --weight-format int4 FOLDER' "
        "wrote",
    ),
    "ctranslate2": Peer(
        worker="with_ctranslate2.py",
        install="pip install ctranslate2",
        model="a folder that 'ct2-transformers-converter --model MODEL --output_dir FOLDER' wrote",
        families=(Family.CAUSAL, Family.SEQ2SEQ),
    ),
}


@attrs.frozen(kw_only=True)
class Side:
    """One column of a comparison: a library, a model, and the Python that runs them.

    Attributes:
        name: `lmkit`, or a peer's.
        precision: as asked for, or None.
        model: what it loads.
        worker: the file that runs it.
        python: the interpreter that has the library.
        install: how to get the library.
        drafts: of ours, whether it guesses tokens from what it has read.
    """

    name: str
    precision: str | None
    model: str
    worker: Path
    python: str = sys.executable
    install: str = ""
    drafts: bool = False

    @property
    def title(self) -> str:
        """How tables name it."""
        title = f"{self.name} {self.precision}" if self.precision else self.name
        return f"{title} + drafts" if self.drafts else title

    @property
    def is_ours(self) -> bool:
        """Whether it is the bundle."""
        return self.name == "lmkit"


@attrs.frozen
class Skipped:
    """A side that was asked for and is not in the comparison.

    Attributes:
        title: how tables would name it.
        reason: why, and what would help.
    """

    title: str
    reason: str


def our_sides(bundle: Path, precisions: Sequence[str], *, drafts: bool = False) -> list[Side]:
    """Return the bundle in each precision; with `drafts`, once without and once with them."""
    worker = WORKERS / "with_lmkit.py"
    return [
        Side(name="lmkit", precision=name, model=str(bundle), worker=worker, drafts=guesses)
        for name in precisions
        for guesses in ((False, True) if drafts else (False,))
    ]


def peer_sides(
    against: Iterable[str],
    *,
    bundle: Path,
    family: Family,
    model: str | None = None,
    pythons: Mapping[str, str] | None = None,
) -> tuple[list[Side], list[Skipped]]:
    """Return the peers that were asked for, and those among them that cannot take part.

    Args:
        against: each `NAME[:PRECISION][=MODEL]`.
        bundle: our own, which some load as it is.
        family: what the model is.
        model: what the bundle was exported from, which some load as it is.
        pythons: the interpreter of each peer that lives elsewhere, by its name, or by its name and
            precision.
    Raises:
        UnknownName: there is no such peer.
        TaskError: one is asked for twice.
    """
    pythons = dict(pythons or {})
    for title in pythons:
        _peer(title.partition(":")[0])
    sides: list[Side] = []
    skipped: list[Skipped] = []
    titles: set[str] = set()
    for asked in against:
        title, _, path = asked.partition("=")
        name, _, precision = title.partition(":")
        peer = _peer(name)
        loads = path or _taken(peer.takes, bundle, model)
        side = Side(
            name=name,
            precision=precision or None,
            model=loads or "",
            worker=WORKERS / peer.worker,
            python=pythons.get(title) or pythons.get(name) or sys.executable,
            install=peer.install,
        )
        if side.title in titles:
            raise TaskError(f"'{asked}' is asked for twice; tell them apart as {name}:LABEL=MODEL")
        titles.add(side.title)
        if family not in peer.families:
            skipped.append(Skipped(side.title, f"it runs no {family} model"))
        elif loads is None:
            reason = f"it needs {peer.model}"
            reason += "" if peer.takes == "model" else f"; give it as {title}=PATH"
            skipped.append(Skipped(side.title, reason))
        elif not Path(loads).exists() and name != "transformers":  # that may be a hub id
            skipped.append(Skipped(side.title, f"there is no '{loads}'; it needs {peer.model}"))
        else:
            sides.append(side)
    return sides, skipped


def _peer(name: str) -> Peer:
    if name not in PEERS:
        raise UnknownName("peer", name, PEERS)
    return PEERS[name]


def _taken(takes: str | None, bundle: Path, model: str | None) -> str | None:
    if takes == "bundle":
        return str(bundle) if (bundle / "genai_config.json").is_file() else None
    if takes == "gguf":
        return model if model is not None and model.endswith(".gguf") else None
    return model if takes == "model" else None


class SideFailed(LmkitError):
    """A side of a comparison cannot do its work; the others go on.

    Attributes:
        missing: whether its library is not installed.
    """

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing
