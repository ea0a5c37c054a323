"""Beyond 2 GB: export a model whose float32 weights no single protobuf file could hold, and ask it.

    python tests/benchmarks/large.py TOKENIZER FOLDER [--layers 10] [--precision fp32,int4]

The model is a Llama with random weights, 0.55 billion of them with 10 layers (2.2 GB), and the tokenizer
that of a model's folder, such as SmolLM2-135M-Instruct's. Export and answers run as processes of their
own, as a user would start them; their peak memory is what the system counted, mapped files included.
FOLDER is made, and takes three times the weights; what it holds may be deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

COMMAND = [sys.executable, "-c", "from lmkit.cli.main import main; main()"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--precision", default="fp32,int4")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    model, bundle = options.folder / "model", options.folder / "bundle"
    given = [str(options.tokenizer), str(model), str(options.layers)]
    run("make the model", [sys.executable, "-c", MAKE, *given])
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    print(f"float32 weights: {weights / 1e9:.2f} GB")
    export = ["export", str(model), "--task", "chat", "--output", str(bundle)]
    run("export", [*COMMAND, *export, "--precision", options.precision, "--no-timing"], weights)
    manifest = json.loads((bundle / "lmkit.json").read_text("utf-8"))
    for name in options.precision.split(","):
        print(f"{name}: {manifest['precisions'][name]['size_bytes'] / 1e9:.2f} GB")
        ask = ["generate", str(bundle), "--precision", name, "--set", "messages=Hello"]
        run(f"answer in {name}", [*COMMAND, *ask, "--max-new-tokens", "8"], weights)


MAKE = """
import sys, torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
tokenizer, model, layers = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(tokenizer)
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=2048, intermediate_size=5632, num_hidden_layers=int(layers),
    num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=2048,
    tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
    eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
)
LlamaForCausalLM(config).save_pretrained(model)
tokenizer.save_pretrained(model)
"""


def run(what: str, command: list[str], weights: int = 0) -> None:
    """Run a process and print its seconds and its peak memory; stop where it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{what} failed")
    seconds, peak = time.perf_counter() - start, usage.ru_maxrss * 1024
    share = f", {peak / weights:.2f} times the weights" if weights else ""
    print(f"{what}: {seconds:.1f} s, peak {peak / 1e9:.2f} GB{share}", flush=True)


if __name__ == "__main__":
    main()
