"""Run a causal graph: ids in, logits out, keys and values kept in one buffer that never moves.

The graph's operator writes new keys and values into the buffer that it reads the old ones from, so
the same memory is bound as `past_key_values.*` and `present.*`. It is as long as the request needs:
the prompt and the most tokens that may follow.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lmkit.encoding import Ids
from lmkit.errors import BundleError, UnknownName
from lmkit.manifest import Graph, Tensor

Logits = NDArray[np.float32]

CHUNK = 512  # tokens of a prompt that are run at once, which bounds the logits in memory

# What onnxruntime calls numpy's types.
_TYPES = {"int64": "tensor(int64)", "float32": "tensor(float)"}


def available_cores() -> int:
    """Return how many cores this process may use, and no more than `OMP_NUM_THREADS` allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores or 1, int(allowed)) if allowed.isdigit() and int(allowed) else cores or 1


class CausalSession:
    """A loaded graph.

    Args:
        file: the ONNX file.
        graph: its description.
        providers: onnxruntime's execution providers; the CPU's if None.
        threads: how many threads one step may use; all cores of the process if None.
    Raises:
        BundleError: onnxruntime cannot load it.
    """

    def __init__(
        self,
        file: Path,
        graph: Graph,
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        for provider in providers or ():
            if provider not in ort.get_available_providers():
                known = ort.get_available_providers()
                raise UnknownName("execution provider in this onnxruntime", provider, known)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # its warnings are about graphs in general, not this one
        try:
            self.onnx = ort.InferenceSession(
                str(file), options, providers=list(providers or ["CPUExecutionProvider"])
            )
        except Exception as error:  # onnxruntime raises its own kinds, without a common base
            raise BundleError(f"onnxruntime cannot load '{file}': {error}") from error
        self.graph = graph
        written = (*graph.inputs, *graph.outputs)
        found = {port.name: port for port in (*self.onnx.get_inputs(), *self.onnx.get_outputs())}
        for tensor in written:
            _check_port(file, tensor, found.pop(tensor.name, None))
        if found:
            raise BundleError(f"'{file}' has '{min(found)}', which is not written down")
        _check_sizes(file, graph)

    def begin(self, prompts: Sequence[Ids], capacity: int) -> tuple[CausalState, Logits]:
        """Read prompts into fresh buffers.

        Args:
            prompts: B prompts, each int64 [P], of any lengths.
            capacity: the most tokens a row will ever hold, its prompt included.
        Returns:
            The state to continue from, and the logits behind each prompt, float32 [B, V].
        """
        state = CausalState(self, len(prompts), capacity)
        if len(prompts) == 1:
            return state, state.read_in_chunks(prompts[0])
        logits = state.read(prompts)
        ends = np.array([len(prompt) for prompt in prompts]) - 1
        return state, logits[np.arange(len(prompts)), ends]

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        """Return the logits at every position of a right-padded batch.

        Args:
            input_ids: int64 [B, T].
            attention_mask: int64 [B, T], ones, then zeros.
        Returns:
            float32 [B, T, V].
        """
        lengths = attention_mask.sum(axis=1)
        rows = [row[:length] for row, length in zip(input_ids, lengths, strict=True)]
        return CausalState(self, len(rows), input_ids.shape[1]).read(rows)


class CausalState:
    """Rows that are being written: their keys and values, and the arrays of the next step."""

    def __init__(self, session: CausalSession, n_rows: int, capacity: int) -> None:
        graph = session.graph
        self._session = session
        self._capacity = capacity
        self._lengths = np.zeros(n_rows, dtype=np.int64)
        shape = (n_rows, graph.n_kv_heads, capacity, graph.head_size)
        self._buffers = {
            f"{layer}.{kind}": ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
            for layer in range(graph.n_layers)
            for kind in ("key", "value")
        }
        # A step's arrays are bound once and written in place.
        self._ids = np.zeros((n_rows, 1), dtype=np.int64)
        self._positions = np.zeros((n_rows, 1), dtype=np.int64)
        self._mask = np.zeros((n_rows, capacity), dtype=np.int64)
        self._logits = np.zeros((n_rows, 1, graph.vocab_size), dtype=np.float32)
        self._step = self._bind(self._ids, self._mask, self._positions, self._logits)

    def read(self, rows: Sequence[Ids]) -> Logits:
        """Run whole rows, right-padded to the longest; return float32 [B, T, V]."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        width = int(lengths.max())
        mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
        ids = np.zeros_like(mask)
        ids[mask == 1] = np.concatenate(rows)
        positions = np.ascontiguousarray(np.broadcast_to(np.arange(width), mask.shape))
        logits = np.empty((*ids.shape, self._session.graph.vocab_size), dtype=np.float32)
        self._run(self._bind(ids, mask, positions, logits))
        self._mask[:, :width] = mask
        self._lengths = lengths
        return logits

    def read_in_chunks(self, row: Ids) -> Logits:
        """Run one row, some tokens at a time, so that a long prompt's logits never lie in memory.

        Args:
            row: int64 [P].
        Returns:
            The logits behind its last token, float32 [1, V].
        """
        for start in range(0, len(row), CHUNK):
            ids = np.ascontiguousarray(row[None, start : start + CHUNK])
            end = start + ids.shape[1]
            mask = np.ones((1, end), dtype=np.int64)
            positions = np.arange(start, end, dtype=np.int64)[None]
            logits = np.empty((*ids.shape, self._session.graph.vocab_size), dtype=np.float32)
            self._run(self._bind(ids, mask, positions, logits))
        self._mask[:, : len(row)] = 1
        self._lengths[0] = len(row)
        return logits[:, -1]

    def step(self, tokens: Sequence[int | None]) -> Logits:
        """Append one token to each row and return the logits behind it.

        Args:
            tokens: B ids; None for a row that is finished, which stays as it is.
        Returns:
            float32 [B, V], overwritten by the next step.
        """
        for row, token in enumerate(tokens):
            if token is not None:
                length = self._lengths[row]
                self._ids[row, 0] = token
                self._positions[row, 0] = length
                self._mask[row, length] = 1
                self._lengths[row] = length + 1
        self._run(self._step)
        return self._logits[:, 0]

    def _bind(
        self, ids: Ids, mask: Ids, positions: Ids, logits: Logits
    ) -> tuple[ort.IOBinding, list[np.ndarray]]:
        binding = self._session.onnx.io_binding()
        arrays = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        for name in self._session.graph.input_names:
            if name in arrays:
                binding.bind_cpu_input(name, arrays[name])
        for name, buffer in self._buffers.items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", buffer)
            binding.bind_ortvalue_output(f"present.{name}", buffer)
        out = ort.OrtValue.ortvalue_from_numpy(logits)
        binding.bind_ortvalue_output("logits", out)
        # The binding holds addresses only: the arrays must live as long as it does.
        return binding, [ids, mask, positions, logits]

    def _run(self, bound: tuple[ort.IOBinding, list[np.ndarray]]) -> None:
        self._session.onnx.run_with_iobinding(bound[0])


def _check_port(file: Path, tensor: Tensor, found: Any) -> None:
    """Refuse a graph whose input or output is not the one that is written down."""
    if found is None:
        raise BundleError(f"'{file}' does not have '{tensor.name}', which is written down")
    axes = tuple(axis if isinstance(axis, int) else None for axis in found.shape)
    wanted = tuple(axis if isinstance(axis, int) else None for axis in tensor.axes)
    if axes != wanted or found.type != _TYPES.get(tensor.dtype):
        raise BundleError(
            f"in '{file}' '{tensor.name}' is a {found.type} {list(found.shape)}; written down is "
            f"{tensor.dtype} {list(tensor.axes)}"
        )


def _check_sizes(file: Path, graph: Graph) -> None:
    """Refuse sizes that contradict the ports, before a buffer is made of them."""
    axes = {tensor.name: tensor.axes for tensor in (*graph.inputs, *graph.outputs)}
    layers = {name for name in axes if name.startswith("past_key_values.")}
    kept = next((axes[name] for name in sorted(layers)), (None,) * 4)
    facts = {
        "n_layers": len(layers) / 2,
        "n_kv_heads": kept[1],
        "head_size": kept[3],
        "vocab_size": axes.get("logits", (None,))[-1],
    }
    for name, fact in facts.items():
        if getattr(graph, name) != fact:
            raise BundleError(
                f"{name} is written down as {getattr(graph, name)}, and '{file}' has {fact}"
            )
