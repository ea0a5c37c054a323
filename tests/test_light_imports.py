"""What an import drags in, seen from a fresh process each."""

import json
import subprocess
import sys

import pytest

TRAINING = {"torch", "transformers", "datasets", "accelerate", "peft", "pyarrow", "pandas"}
HEAVY = TRAINING | {"onnx", "onnxscript", "onnxruntime"}


def dragged_in(script):
    """Return the top-level packages that are loaded after a script has run."""
    ending = (
        "\nimport sys, json; print(json.dumps(sorted({n.partition('.')[0] for n in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script + ending], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_lmkit_imports_nothing_but_itself():
    extra = {"numpy", "attrs", "attr", "cattrs", "jinja2", "tokenizers", "pluggy", "click", "rich"}

    assert not dragged_in("import lmkit") & (HEAVY | extra)


@pytest.mark.parametrize(
    "script",
    [
        "import lmkit; lmkit.tasks()",
        "import lmkit; lmkit.plugins()",
        "import lmkit; lmkit.get_task('chat')",
        "from lmkit import Task, Chat, CausalCollator, TextDecoder, context, target, scratch",
        "from lmkit import encode, prompt_ids, Tokenizer, train_tokenizer, evaluate",
        "from lmkit.saving.jsonform import to_json; import lmkit; to_json(lmkit.get_task('qa'))",
        "import lmkit; lmkit.scratch('gpt2', n_layer=1)",
        "from lmkit.records import read; read([{'x': 1}])",
    ],
)
def test_looking_at_tasks_needs_neither_torch_nor_onnxruntime(script):
    assert not dragged_in(script) & HEAVY


@pytest.mark.parametrize(
    "module", ["beams", "bundle", "generator", "masked", "sampling", "seq2seq", "session"]
)
def test_the_runtime_needs_nothing_of_training(module):
    assert not dragged_in(f"import lmkit.runtime.{module}") & (TRAINING | {"onnx", "onnxscript"})


@pytest.mark.parametrize("module", ["batching", "cli.serve", "serve.app", "serve.running"])
def test_what_serves_needs_nothing_of_training(module):
    if module.startswith("serve."):
        # A base install cannot serve, and needs to import none of it.
        pytest.importorskip("uvicorn")
    assert not dragged_in(f"import lmkit.{module}") & (TRAINING | {"onnx", "onnxscript"})


@pytest.mark.parametrize("name", ["train", "export", "evaluate", "load", "preview"])
def test_what_does_the_work_is_there_without_its_extra(name):
    """It says what to install when it is called; documentation and type checkers only look at it."""
    missing = ("torch", "transformers", "datasets", "onnx", "onnx_ir", "onnxscript", "peft")
    script = f"import sys\nfor name in {missing}: sys.modules[name] = None\n"

    dragged_in(f"{script}import lmkit; assert callable(lmkit.{name})")


@pytest.mark.parametrize(
    "module", ["chat", "alpaca", "qa", "mlm", "summarize", "charlm", "classify"]
)
def test_a_built_in_plugin_is_light(module):
    assert not dragged_in(f"import lmkit_{module}") & (HEAVY | {"rouge_score", "nltk"})


def test_training_tokenizes_without_torch():
    script = (
        "import lmkit\n"
        "rows = [{'prompt': 'a', 'completion': 'b'}]\n"
        "tokenizer = lmkit.train_tokenizer(kind='char', unknown='token', data=rows)\n"
        "assert lmkit.encode(lmkit.get_task('qa'), rows, tokenizer)\n"
    )

    assert not dragged_in(script) & HEAVY
