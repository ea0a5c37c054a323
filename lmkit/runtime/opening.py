"""Open a bundle for answering, and check what it claims of itself."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lmkit.errors import BundleError
from lmkit.family import Family
from lmkit.runtime.bundle import Bundle, open_bundle
from lmkit.runtime.causal import CausalSession
from lmkit.runtime.generator import Generator
from lmkit.runtime.masked import MaskFiller, open_filler
from lmkit.runtime.prefixes import PREFIX_CACHE_BYTES
from lmkit.runtime.seq2seq import Seq2SeqSession
from lmkit.runtime.session import Providers
from lmkit.runtime.verifying import MOST_BYTES
from lmkit.saving.manifest import Graph, Manifest, MaskedGraph, Seq2SeqGraph
from lmkit.saving.precisions import FP32


def load(
    path: str | Path,
    *,
    precision: str | None = None,
    providers: Providers | None = None,
    threads: int | None = None,
    verify: bool = True,
    prefix_cache_bytes: int = PREFIX_CACHE_BYTES,
) -> Generator | MaskFiller:
    """Open a bundle for answering; torch is not needed, nor imported.

    Args:
        path: the bundle's folder.
        precision: which of the bundle's precisions to use, such as `int4`; None for its default.
        providers: onnxruntime's execution providers, each a name or a name with its options; the
            CPU's if None.
        threads: how many threads to use; all cores of the process if None.
        verify: whether to read every file's checksum and to answer the golden prompts first.
            Without, sizes and the golden prompts' ids are still compared.
        prefix_cache_bytes: the most memory for what prompts that were read leave to others that begin
            in the same way, as all of a task's do, and a chat's next turn; 0 for none. For causal
            models.
    Raises:
        BundleError: the bundle is damaged, from the future, or answers differently than at export.
        PluginError: its task needs a plugin that is not installed.
        UnknownName: it has no such precision.
    """
    bundle = open_bundle(path, precision=precision, checksums=verify)
    generator = open_generator(
        bundle, providers=providers, threads=threads, prefix_cache_bytes=prefix_cache_bytes
    )
    _check_golden(generator, answer=verify)
    return generator


def _check_golden(generator: Generator | MaskFiller, *, answer: bool) -> None:
    """Refuse a bundle whose golden prompts come out differently."""
    for golden in generator.manifest.golden:
        problem = generator.check_golden(golden, answer=answer)
        if problem is not None:
            raise BundleError(f"'{generator.path}' does not behave as it did at export: {problem}")


def open_generator(
    bundle: Bundle,
    *,
    providers: Providers | None = None,
    threads: int | None = None,
    prefix_cache_bytes: int = PREFIX_CACHE_BYTES,
) -> Generator | MaskFiller:
    """Load a bundle's graphs of its manifest's precision, by its family; nothing is checked."""
    graph = bundle.manifest.graph
    if isinstance(graph, Graph):
        open_session = functools.partial(
            CausalSession,
            bundle.path / graph.file,
            graph,
            providers=providers,
            threads=threads,
            prefix_cache_bytes=prefix_cache_bytes,
        )
        # onnxruntime reads the graph while the tokenizer is read here.
        with ThreadPoolExecutor(max_workers=1) as beside:
            opening = beside.submit(open_session)
            tokenizer = bundle.tokenizer
            session = opening.result()
        if bundle.manifest.precision != FP32:  # its products round what they are given
            session.pace.rounding = math.inf
            figures = bundle.manifest.precisions.get(bundle.manifest.precision)
            if figures is None or figures.size_bytes > MOST_BYTES:
                session.verifier = None
        return Generator(bundle, session, tokenizer=tokenizer)
    if isinstance(graph, MaskedGraph):
        return open_filler(bundle, providers=providers, threads=threads)
    if isinstance(graph, Seq2SeqGraph):
        pair = Seq2SeqSession(bundle.path, graph, providers=providers, threads=threads)
        return Generator(bundle, pair)
    raise BundleError(f"'{bundle.path}' is a {bundle.manifest.task.family} bundle")


def verify(path: str | Path) -> dict[str, str]:
    """Check everything that a bundle claims of itself.

    Returns:
        What was checked, in words, by name.
    Raises:
        BundleError: something does not hold; the text says what.
    """
    bundle = open_bundle(path)
    manifest = bundle.manifest
    names = list(manifest.precisions) or [manifest.precision]
    answered, drafted = {}, {}
    for name in names:  # one after another: each has its weights in memory
        at = manifest.at(name)
        drafted[name] = _check_answers(Bundle(bundle.path, at))
        answered[name] = sum(len(golden.token_ids) for golden in at.golden)
    size = sum(file.size_bytes for file in manifest.files.values())
    counts = ", ".join(
        f"{count} ({name})" if len(answered) > 1 else f"{count}" for name, count in answered.items()
    )
    what = "fills" if manifest.task.family is Family.MASKED else "greedy tokens"
    return {
        "schema": f"{manifest.schema}, written by lmkit {manifest.lmkit}",
        "files": f"{len(manifest.files)} files, {size:,} bytes, every sha256 as written",
        "graph": " and ".join(
            f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs"
            for graph in manifest.graph.graphs
        )
        + " as written down",
        **_needs_told(manifest),
        "golden prompts": f"{len(manifest.golden)} encode to the same ids, and {counts} {what} are "
        "the same",
        **_drafts_told(drafted),
    }


def _needs_told(manifest: Manifest) -> dict[str, str]:
    """Return in words which plugins a bundle was made with; empty where it is none."""
    if not manifest.plugins:
        return {}
    from lmkit.saving.needs import needed_to_answer

    asked = needed_to_answer(manifest.task, manifest.plugins)
    others = [need.source for need in manifest.plugins if need not in asked]
    told = [f"made with {', '.join(need.source for need in asked)}"] if asked else []
    told += [f"for training and measuring alone {', '.join(others)}"] if others else []
    return {"plugins": "; ".join(told)}


def _check_answers(bundle: Bundle) -> bool | None:
    """Answer the golden prompts; return whether drafts are read as steps are, None where they need not be."""
    generator = open_generator(bundle)
    _check_golden(generator, answer=True)
    golden = bundle.manifest.golden
    if not isinstance(generator, Generator) or not golden:
        return None
    return generator.reads_drafts(np.array(golden[0].prompt_ids, dtype=np.int64))


def _drafts_told(found: Mapping[str, bool | None]) -> dict[str, str]:
    """Return in words in which precisions drafts are read as steps are; empty where none needs a graph."""
    exact = [name for name, is_exact in found.items() if is_exact]
    others = [name for name, is_exact in found.items() if is_exact is False]
    told = [f"read as single steps are, to the bit ({', '.join(exact)})"] if exact else []
    told += [f"none here, since some bit would differ ({', '.join(others)})"] if others else []
    return {"drafts": "; ".join(told)} if told else {}
