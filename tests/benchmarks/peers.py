"""The peers' environments and models: what is installed where, and how each model is made.

Every peer lives in a virtual environment of its own, since their pins exclude each other. Nothing is
downloaded but packages: models are made from the one that is given, or from a config with random weights,
whose speed is that of trained ones.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

# Environment -> what pip installs there. `convert` and `optimum` make models; the others run them.
ENVIRONMENTS: dict[str, Sequence[str]] = {
    "llamacpp": ["llama-cpp-python[server]"],
    "openvino": ["openvino-genai", "numpy"],
    "ctranslate2": ["ctranslate2", "numpy"],
    "convert": ["optimum-intel[openvino]", "nncf", "ctranslate2", "torch==2.13.0"],
    "optimum": ["optimum-onnx[onnxruntime]", "torch==2.13.0"],
    "serving": ["transformers[serving]==5.23.0", "torch==2.13.0"],
}
# llama.cpp is compiled for the CPU at hand; its tools are not needed.
SETTINGS = {"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TESTS=OFF"}

# Peers that do not live in this process's environment.
HOMES = {
    "llama.cpp": "llamacpp",
    "openvino": "openvino",
    "ctranslate2": "ctranslate2",
    "optimum": "optimum",
}

OPENVINO = ["convert/bin/optimum-cli", "export", "openvino", "--model", "{model}"]
OPENVINO += ["--task", "text-generation-with-past", "--weight-format"]
ONNX = ["optimum/bin/optimum-cli", "export", "onnx", "--model"]
GENAI = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", "{model}", "-o", "{out}"]
GENAI_OPTIONS = ["-e", "cpu", "-c", "{out}.cache", "--extra_options"]
# Logits of the last position only, as ours; one product for gate and up, as ours.
GENAI_OPTIONS += ["prune_lm_head=true", "fuse_mlp_gate_up=true"]
T5_TASK = ["--task", "text2text-generation-with-past"]

# Folder -> the command that makes it; {model} is the causal model, {older} the same for an older
# transformers, {out} the folder.
MODELS: dict[str, Sequence[str]] = {
    "openvino-fp32": [*OPENVINO, "fp32", "{out}"],
    "openvino-int8": [*OPENVINO, "int8", "{out}"],
    # 576 columns are no multiple of its groups of 128; lm_head and embedding stay int8.
    "openvino-int4": [*OPENVINO, "int4", "--group-size", "64", "{out}"],
    # Its fastest: lm_head and embedding in 4 bits too, no zero points.
    "openvino-int4-all": [
        *(*OPENVINO, "int4", "--group-size", "64", "--sym", "--all-layers", "{out}"),
    ],
    "ct2": [
        "convert/bin/ct2-transformers-converter",
        "--model",
        "{model}",
        "--output_dir",
        "{out}",
    ],
    "optimum-fp32": [*ONNX, "{older}", "--task", "text-generation-with-past", "{out}"],
    "genai-fp32": [*GENAI, "-p", "fp32", *GENAI_OPTIONS],
    "genai-int8": [*GENAI, "-p", "int8", *GENAI_OPTIONS, "accuracy_level=4", "block_size=32"],
    "genai-int4": [*GENAI, "-p", "int4", *GENAI_OPTIONS, "accuracy_level=4", "block_size=32"],
    "optimum-t5": [*ONNX, "{models}/t5", *T5_TASK, "{out}"],
    "ct2-t5": [
        *("convert/bin/ct2-transformers-converter", "--model", "{models}/t5"),
        *("--output_dir", "{out}"),
    ],
    "optimum-distilbert": [*ONNX, "{models}/distilbert", "--task", "fill-mask", "{out}"],
}


def install(folder: Path) -> None:
    """Make the environments that are not there."""
    for name, packages in ENVIRONMENTS.items():
        home = folder / name
        if home.is_dir():
            continue
        print(f"installing {name} ...", file=sys.stderr)
        venv.create(home, with_pip=True)
        pip = [str(home / "bin" / "pip"), "install", "--quiet"]
        subprocess.run([*pip, *packages], check=True, env={**os.environ, **SETTINGS})
        if name == "convert":  # its transformers fails where this one is of another torch
            subprocess.run([*pip[:1], "uninstall", "--yes", "--quiet", "torchvision"], check=True)


def prepare(folder: Path, model: Path, tokenizers: Path | None) -> None:
    """Make the models that are not there: those with random weights, ours, and the peers'.

    Args:
        folder: where environments and models lie.
        model: the causal model's folder, in Hugging Face layout.
        tokenizers: a folder with the tokenizers `t5` and `bert-base-uncased`; None if there are models
            with random weights already.
    """
    models = folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    random_models(models, tokenizers)
    older = for_older(model, models / "older")
    given = {"model": model, "older": older, "models": models}
    for name in OURS:
        export(folder, model, name)
    for name, command in MODELS.items():
        words = [word.format_map({**given, "out": f"{models / name}.part"}) for word in command]
        if "/bin/" in words[0] and not words[0].startswith("/"):
            words[0] = str(folder / words[0])
        _make(models / name, words)


# Bundle -> its source, task and precisions.
OURS = {
    "lmkit": ("{model}", "chat", "fp32,int8,int4"),
    "lmkit-t5": ("{models}/t5", "summarize", "fp32,int8"),
    "lmkit-distilbert": ("{models}/distilbert", "mlm", "fp32,int8"),
}


def export(folder: Path, model: Path | None, name: str, *, anew: bool = False) -> bool:
    """Export one of our bundles, with the lmkit at hand, if it is not there or is to be made anew.

    Returns:
        Whether it is there.
    """
    out = folder / "models" / name
    if anew and out.is_dir():
        shutil.rmtree(out)
    source, task, precisions = OURS[name]
    if model is None and "{model}" in source and not out.is_dir():
        print(f"{name} is not there; give --model to export it", file=sys.stderr)
        return False
    source = source.format(model=model, models=folder / "models")
    words = [sys.executable, "-m", "lmkit", "export", source, "--task", task]
    return _make(out, [*words, "--precision", precisions, "--output", str(out)], whole=True)


def _make(out: Path, command: Sequence[str], *, whole: bool = False) -> bool:
    """Run a command that makes a folder, if that is not there; return whether it is then.

    Args:
        out: the folder.
        command: makes `out.part`, or `out` itself where it leaves none that is not whole.
        whole: whether it does that.
    """
    if out.is_dir():
        return True
    print(f"making {out.name} ...", file=sys.stderr)
    part = Path(f"{out}.part")
    if part.is_dir():  # of one that was interrupted
        shutil.rmtree(part)
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"  {out.name} fails: {done.stderr.strip()[-500:]}", file=sys.stderr)
        return False
    if not whole:
        part.rename(out)
    print(f"  {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return True


def for_older(model: Path, folder: Path) -> Path:
    """Return a model's folder in which a transformers before 5 finds the base of its positions.

    It looks for `rope_theta` and would silently take 10,000 where 5 writes `rope_parameters`: its
    model would be another one.
    """
    config = json.loads((model / "config.json").read_text("utf-8"))
    base = config.get("rope_parameters", {}).get("rope_theta")
    if base is None:
        return model
    folder.mkdir(exist_ok=True)
    for file in model.iterdir():
        if file.name != "config.json" and not (folder / file.name).exists():
            (folder / file.name).symlink_to(file.resolve())
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": base}), "utf-8")
    return folder


def random_models(models: Path, tokenizers: Path | None) -> None:
    """Write T5-small and DistilBERT as their configs say, with random weights."""
    if all((models / name).is_dir() for name in ("t5", "distilbert")):
        return
    import torch
    import transformers

    made = {
        "t5": ("t5", transformers.T5ForConditionalGeneration, T5_SMALL),
        "distilbert": ("bert-base-uncased", transformers.DistilBertForMaskedLM, {}),
    }
    for name, (tokenizer, kind, config) in made.items():
        if (models / name).is_dir():
            continue
        if tokenizers is None:
            print(f"{name} is not there; give --tokenizers to make it", file=sys.stderr)
            continue
        torch.manual_seed(0)
        net = kind(kind.config_class(**config))
        net.save_pretrained(models / name)
        transformers.AutoTokenizer.from_pretrained(tokenizers / tokenizer).save_pretrained(
            models / name
        )


# Source: the configuration published with t5-small.
T5_SMALL = {
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "vocab_size": 32128,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
