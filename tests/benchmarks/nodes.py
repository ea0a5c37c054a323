"""Where a token's time goes: a causal bundle's graph under onnxruntime's own profiler.

    python tests/benchmarks/nodes.py BUNDLE [--precision int4] [--past 256] [--prompt 512] [--threads 1]

Prints how long a decode step and a prompt take without the profiler, and then the share of each kind of
node with it. The profiler adds a few microseconds to a node: small nodes look larger than they are, and
"between nodes" is mostly its own. Compare shares, and times of the first lines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from lmkit.runtime.bundle import open_bundle
from lmkit.saving.manifest import Graph

KEEP = "num_logits_to_keep"
KINDS = {
    "products": {
        "MatMul",
        "FusedMatMul",
        "Gemm",
        "FusedGemm",
        "MatMulNBits",
        "MatMulIntegerToFloat",
    }
    | {"DynamicQuantizeMatMul", "MatMulInteger", "DynamicQuantizeLinear"},
    "attention": {"GroupQueryAttention"},
    "norms": {"SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization"}
    | {"SkipLayerNormalization", "LayerNormalization"},
    "rotary": {"RotaryEmbedding", "Cos", "Sin"},
    "activations": {"QuickGelu", "Gelu", "FastGelu", "BiasGelu", "Sigmoid", "Tanh", "Relu"},
    "element-wise": {"Mul", "Add", "Sub", "Div", "Pow", "Neg"},
    "copies": {"Split", "Slice", "Concat", "Reshape", "Transpose", "Expand"},
    "embedding": {"Gather", "GatherBlockQuantized"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--precision")
    parser.add_argument("--past", type=int, default=256, help="tokens before a decode step")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt; 0 for none")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    bundle = open_bundle(options.bundle, precision=options.precision, checksums=False)
    graph = bundle.manifest.graph
    assert isinstance(graph, Graph), "not a causal bundle"
    file = bundle.path / graph.file
    print(f"{file}, {options.threads} threads, onnxruntime {ort.__version__}")
    report(file, "decode step", 1, options.past, options.threads, runs=40)
    if options.prompt:
        report(file, "prompt", options.prompt, 0, options.threads, runs=5)


def report(file: Path, what: str, new: int, past: int, threads: int, *, runs: int) -> None:
    """Print how long `new` tokens behind `past` ones take, and where."""
    session = opened(file, threads, None)
    run = bound(session, new, past)
    run()
    times = [seconds(run) for _ in range(runs)]
    print(f"\n{what}, {new} new behind {past}: median {1e3 * statistics.median(times):.2f} ms")
    with tempfile.TemporaryDirectory() as folder:
        session = opened(file, threads, f"{folder}/nodes")
        run = bound(session, new, past)
        for _ in range(runs + 1):
            run()
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    whole, kinds = by_kind(events, runs)
    within = sum(micros for micros, _ in kinds.values())
    kinds["between nodes"] = (whole - within, 0)
    for kind, (micros, count) in sorted(kinds.items(), key=lambda item: -item[1][0]):
        print(f"  {kind:<14} {count:5.0f} nodes {micros / 1e3:9.3f} ms {micros / whole:7.1%}")


def by_kind(
    events: list[dict[str, Any]], runs: int
) -> tuple[float, dict[str, tuple[float, float]]]:
    """Return the microseconds of a run, and those and the number of nodes of each kind."""
    whole = [event for event in events if event["name"] == "model_run"][-runs:]
    kind_of = {operator: kind for kind, operators in KINDS.items() for operator in operators}
    found: dict[str, list[float]] = defaultdict(list)
    for event in events:
        counted = event["name"].endswith("_kernel_time") and event["ts"] >= whole[0]["ts"]
        if event.get("cat") == "Node" and counted:
            found[kind_of.get(event["args"]["op_name"], "other")].append(event["dur"])
    kinds = {kind: (sum(times) / runs, len(times) / runs) for kind, times in found.items()}
    return sum(event["dur"] for event in whole) / runs, kinds


def opened(file: Path, threads: int, profile: str | None) -> ort.InferenceSession:
    """Return a session, with the profiler writing to a file of a prefix or without."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def bound(session: ort.InferenceSession, new: int, past: int) -> Any:
    """Return a call that runs the graph on memory of its own, for the last position's logits."""
    total = past + new
    feeds: dict[str, np.ndarray] = {
        "input_ids": np.random.default_rng(0).integers(0, 1000, (1, new)),
        "attention_mask": np.ones((1, total), np.int64),
        "position_ids": np.arange(past, total)[None],
    }
    if any(port.name == KEEP for port in session.get_overridable_initializers()):
        feeds[KEEP] = np.array([1])
    binding = session.io_binding()
    for port in session.get_inputs():
        if port.name.startswith("past_key_values."):
            shape = (1, port.shape[1], total, port.shape[3])
            feeds[port.name] = np.full(shape, 0.01, np.float32)
    held = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
        if name.startswith("past_key_values."):
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), value)
    binding.bind_output("logits")

    def run(_held: Mapping[str, Any] = held, _arrays: Mapping[str, Any] = feeds) -> None:
        session.run_with_iobinding(binding)

    return run


def seconds(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
