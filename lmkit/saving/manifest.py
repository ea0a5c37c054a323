"""`lmkit.json`: everything about a bundle that its graph and tokenizer do not say themselves.

Export writes it, the runtime reads it, and nothing else decides how a bundle is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import attrs
import cattrs
from cattrs.v import format_exception

from lmkit.errors import BundleError, LmkitError, SerialError, UnknownName
from lmkit.family import Family
from lmkit.saving.absent import Needed as Needed
from lmkit.saving.jsonform import dump, from_json, to_json
from lmkit.saving.needs import lacking, other_versions, settled
from lmkit.saving.precisions import DRAFT_FILE, FP32, Precision
from lmkit.saving.schemas import Content, Schema, advice, unchanged
from lmkit.task import Task

MANIFEST_FILE = "lmkit.json"


@attrs.frozen(kw_only=True)
class Tensor:
    """An input or output of a graph.

    Attributes:
        name: as in the graph.
        dtype: numpy's name for its type.
        axes: a name for each axis that varies, a number for each that does not.
    """

    name: str
    dtype: str
    axes: tuple[str | int, ...]


@attrs.frozen(kw_only=True)
class Ports:
    """A graph's file, and what goes in and comes out.

    Attributes:
        file: the graph, relative to the bundle.
        inputs: in the graph's order.
        outputs: in the graph's order.
    """

    file: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs' names."""
        return tuple(tensor.name for tensor in self.inputs)

    @property
    def graphs(self) -> tuple[Ports, ...]:
        """The graph itself; a seq2seq bundle has two."""
        return (self,)

    def with_files(self, files: Mapping[str, str]) -> Self:
        """Return the graph as it lies in another file; names that are not there stay."""
        return attrs.evolve(self, file=files.get(self.file, self.file))


@attrs.frozen(kw_only=True)
class Prefix:
    """Keys and values that stand before every prompt: what a soft prompt became.

    Attributes:
        file: a numpy file beside the graph, float32 [layers, 2, KV, n, D], keys before values.
        n_tokens: n, the places that it takes.
    """

    file: str
    n_tokens: int


@attrs.frozen(kw_only=True)
class Graph(Ports):
    """What the runtime must know of a causal graph.

    Attributes:
        n_layers: how many layers keep keys and values.
        n_kv_heads: heads of keys and values in each.
        head_size: numbers in a head.
        vocab_size: numbers in a row of logits.
        context_length: the most tokens the model can hold, or None; those of a prefix not among
            them.
        prefix: what every prompt stands behind, or None.
        draft: the file of the graph that checks drafts, or None; see `lmkit.export.chaining`.
    """

    n_layers: int
    n_kv_heads: int
    head_size: int
    vocab_size: int
    context_length: int | None
    prefix: Prefix | None = None
    draft: str | None = None

    def with_files(self, files: Mapping[str, str]) -> Graph:
        """Return the graph as it lies in another file, with what checks drafts there."""
        return attrs.evolve(self, file=files.get(self.file, self.file), draft=files.get(DRAFT_FILE))


@attrs.frozen(kw_only=True)
class MaskedGraph(Ports):
    """What the runtime must know of a masked graph.

    Attributes:
        vocab_size: numbers in a row of logits.
        context_length: the most tokens the model can hold, or None.
    """

    vocab_size: int
    context_length: int | None


@attrs.frozen(kw_only=True)
class Seq2SeqGraph:
    """What the runtime must know of an encoder's graph and its decoder's.

    Attributes:
        encoder: reads a source once; gives every decoder layer's cross keys and values.
        decoder: reads one token a step.
        n_layers: layers of the decoder.
        n_heads: heads of each, in self-attention and cross-attention alike.
        head_size: numbers in a head.
        vocab_size: numbers in a row of logits.
        context_length: the most tokens of a source, or None.
        target_length: the most tokens of a target, the start token included, or None.
        start_id: the token that every target starts with, given to the decoder first.
    """

    encoder: Ports
    decoder: Ports
    n_layers: int
    n_heads: int
    head_size: int
    vocab_size: int
    context_length: int | None
    target_length: int | None
    start_id: int

    @property
    def graphs(self) -> tuple[Ports, ...]:
        """Both."""
        return (self.encoder, self.decoder)

    def with_files(self, files: Mapping[str, str]) -> Self:
        """Return the graphs as they lie in other files; names that are not there stay."""
        encoder, decoder = (graph.with_files(files) for graph in self.graphs)
        return attrs.evolve(self, encoder=encoder, decoder=decoder)


AnyGraph = Graph | MaskedGraph | Seq2SeqGraph

_GRAPHS: dict[Family, type[Any]] = {
    Family.CAUSAL: Graph,
    Family.MASKED: MaskedGraph,
    Family.SEQ2SEQ: Seq2SeqGraph,
}


@attrs.frozen(kw_only=True)
class Tokens:
    """The ids with a meaning.

    Attributes:
        eos: the tokenizer's own end of a text; None where nothing is written, as by a masked model.
        stop: any of these ends an answer; the EOS first.
        pad: fills rows that are shorter than their batch.
        bos: starts a text, or None.
    """

    eos: int | None
    stop: tuple[int, ...]
    pad: int
    bos: int | None = None


@attrs.frozen(kw_only=True)
class Golden:
    """A record whose prompt and first tokens were written down at export.

    Attributes:
        record: the record.
        prompt_ids: what its prompt must encode to.
        token_ids: what the model must write first, greedily, in the manifest's `precision`.
    """

    record: dict[str, Any]
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


@attrs.frozen(kw_only=True)
class File:
    """A file's identity."""

    sha256: str
    size_bytes: int


@attrs.frozen(kw_only=True)
class Manifest:
    """The content of `lmkit.json`.

    Attributes:
        schema: the version of this file's form.
        lmkit: the version that wrote it.
        created: when, in ISO 8601 form; golden prompts are rendered at that moment.
        families: the families that its graphs serve.
        task: what the bundle does.
        model: name, architecture and number of parameters, for the reader.
        graph: how to run it.
        tokens: the ids with a meaning.
        plugins: what must be installed for the task to be read.
        precision: the one that `graph` and `golden` speak of; as it is read, the default one.
        precisions: each precision's files and measured figures, such as `fp32`.
        golden: prompts that must still come out the same.
        genai: how onnxruntime-genai fares with the bundle.
        files: every other file of the bundle, by its name.
    """

    schema: int
    lmkit: str
    created: str
    families: tuple[str, ...]
    task: Task
    model: dict[str, Any]
    graph: AnyGraph
    tokens: Tokens
    plugins: tuple[Needed, ...] = ()
    precision: str = FP32
    precisions: dict[str, Precision] = attrs.field(factory=dict)
    golden: tuple[Golden, ...] = ()
    genai: dict[str, Any] = attrs.field(factory=dict)
    files: dict[str, File] = attrs.field(factory=dict)

    def at(self, precision: str | None) -> Manifest:
        """Return the manifest with a precision's graph files and golden tokens.

        Args:
            precision: one of `precisions`; None for the one that it is at already.
        Raises:
            UnknownName: the bundle has no such precision.
        """
        if precision is None or precision == self.precision:
            return self
        if precision not in self.precisions:
            known = dict.fromkeys([*self.precisions, self.precision])
            raise UnknownName("precision in this bundle", precision, known)
        chosen = self.precisions[precision]
        graph: Any = self.graph
        golden = tuple(
            attrs.evolve(entry, token_ids=token_ids)
            for entry, token_ids in zip(self.golden, chosen.golden, strict=True)
        )
        return attrs.evolve(
            self, precision=precision, graph=graph.with_files(chosen.files), golden=golden
        )


def _with_golden_in_each(content: Content) -> Content:
    """Put the golden tokens, which stood with their prompts only, into the one precision there was."""
    golden, precisions = content.get("golden"), content.get("precisions")
    if not isinstance(precisions, Mapping):
        return content
    entries = golden if isinstance(golden, list) else []
    tokens = [entry.get("token_ids", []) for entry in entries if isinstance(entry, Mapping)]
    figures = {
        name: {**found, "golden": tokens} if isinstance(found, Mapping) else found
        for name, found in precisions.items()
    }
    return {**content, "precisions": figures}


# 1 had causal graphs only, 2 one precision with figures under free names.
FORM = Schema(3, {1: unchanged, 2: _with_golden_in_each})
SCHEMA = FORM.newest


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `lmkit.json` into a folder."""
    data = _converter().unstructure(manifest)
    (folder / MANIFEST_FILE).write_text(dump({**data, "sha256": signature(data)}), "utf-8")


def signature(data: Mapping[str, Any]) -> str:
    """Return the sha256 of a manifest's own content, its `sha256` left out."""
    content = {key: part for key, part in data.items() if key != "sha256"}
    canonical = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Return a bundle's manifest.

    Raises:
        BundleError: there is none, it cannot be read, or a newer lmkit wrote it.
        PluginError: the task needs a plugin that is not installed; the text says what to install.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise BundleError(f"'{folder}' is not a bundle: it has no {MANIFEST_FILE}")
    try:
        data = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"'{path}' is damaged: {error}") from error
    schema = data.get("schema") if isinstance(data, Mapping) else None
    if type(schema) is not int:  # true is an int, too
        raise BundleError(f"'{path}' has no schema version, so it is no lmkit bundle")
    if refusal := FORM.refusal(schema, data.get("lmkit")):
        again = "; export it again" if schema < FORM.oldest else ""
        raise BundleError(f"'{path}' {refusal}{again}")
    try:
        content = {key: part for key, part in data.items() if key != "sha256"}
        manifest = _converter(_family_of(data)).structure(FORM.upgraded(content, schema), Manifest)
    except cattrs.BaseValidationError as error:
        if missing := lacking("the bundle's task", data.get("task"), data.get("plugins")):
            raise missing from error
        problems = "; ".join(cattrs.transform_error(error, path="$", format_exception=_said))
        problems += advice(data.get("lmkit")) or other_versions(data.get("plugins"))
        raise BundleError(f"'{path}' does not describe a bundle: {problems}") from error
    if manifest.task.family not in manifest.families:
        raise BundleError(
            f"'{path}' does not describe a bundle: its task is {manifest.task.family}, and its "
            f"graphs serve {', '.join(manifest.families) or 'no family'} @ $.families"
        )
    _check_precisions(path, manifest)
    if data.get("sha256") != signature(data):
        raise BundleError(
            f"'{path}' is damaged: it is not what was written (its sha256 differs); copy the bundle "
            "again, or export it again"
        )
    return attrs.evolve(manifest, task=settled("the bundle", manifest.task, manifest.plugins))


def _check_precisions(path: Path, manifest: Manifest) -> None:
    """Refuse precisions that do not fit the rest."""
    precisions = manifest.precisions
    if precisions and manifest.precision not in precisions:
        raise BundleError(
            f"'{path}' does not describe a bundle: its precision is '{manifest.precision}', and it "
            f"has {', '.join(precisions)} @ $.precision"
        )
    for name, found in precisions.items():
        if name != manifest.precision and len(found.golden) != len(manifest.golden):
            raise BundleError(
                f"'{path}' does not describe a bundle: it has {len(manifest.golden)} golden prompts "
                f"and tokens for {len(found.golden)} of them @ $.precisions.{name}.golden"
            )


def _family_of(data: Mapping[str, Any]) -> Family:
    """Return the family that decides the form of `graph`; what is wrong with it is told elsewhere."""
    families = data.get("families")
    known = families if isinstance(families, list) else []
    return next((Family(name) for name in known if name in list(Family)), Family.CAUSAL)


def _said(error: BaseException, kind: type | None) -> str:
    """Return one problem in words; lmkit's own errors have them already."""
    return str(error) if isinstance(error, LmkitError) else format_exception(error, kind)


def _converter(family: Family = Family.CAUSAL) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook(
        AnyGraph, lambda data, _: converter.structure(data, _GRAPHS[family])
    )
    converter.register_unstructure_hook(
        AnyGraph, lambda graph: converter.unstructure(graph, unstructure_as=type(graph))
    )
    converter.register_structure_hook(Task, lambda data, _: from_json(data, Task))
    converter.register_unstructure_hook(Task, to_json)
    as_it_is: dict[Any, Any] = {
        str | int: (str, int),
        dict[str, Any]: dict,
    }

    def keep(data: Any, kind: Any) -> Any:
        if not isinstance(data, as_it_is[kind]):
            raise SerialError(f"found {data!r}")
        return data

    converter.register_structure_hook_func(lambda kind: kind in as_it_is, keep)
    return converter
