"""Adapters through peft: put one beside a model, find an adapter's model again, and save it alone."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from lmkit.adapters import ALL_LINEAR, Adapter, Lora, PromptTuning
from lmkit.encoding import Ids
from lmkit.errors import ModelError, UnknownName
from lmkit.family import Family
from lmkit.scratch import Scratch
from lmkit.tokenizing import Tokenizer
from lmkit.train.building import random_state
from lmkit.train.extra import peft, torch, transformers
from lmkit.train.folder import RUN_FILE
from lmkit.train.lengths import context_length
from lmkit.train.models import Loaded, open_model
from lmkit.train.quiet import quiet
from lmkit.train.wrapped import ADAPTER_CONFIG, base_of, is_adapted

KINDS = ("LORA", "PROMPT_TUNING")  # of peft's many, what lmkit can train, export and open
_TASK_TYPES = {Family.CAUSAL: "CAUSAL_LM", Family.MASKED: None, Family.SEQ2SEQ: "SEQ_2_SEQ_LM"}
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # the second is how peft once wrote
_SAMPLES = 16  # numbers of each tensor that tell one model's weights from another's


def base_name(model: Any, adapter: Adapter, family: Family) -> str:
    """Return by what name an adapter's run will find its model again: a hub id or a whole path.

    Args:
        model: what `train` was given.
        adapter: what is to be trained.
        family: the task's.
    Raises:
        ModelError: there is nothing to find again, or the adapter is not for this family.
        MissingExtra: peft is not installed.
    """
    peft()
    if isinstance(adapter, PromptTuning) and family is not Family.CAUSAL:
        raise ModelError(
            f"prompt_tuning(...) stands before a causal model's prompt, and this is a {family} task; "
            "use lora(...)"
        )
    if isinstance(model, Scratch) or str(model).startswith("scratch:"):
        raise ModelError(
            f"an adapter on '{model}' is refused: an adapter's run holds no weights but its own, and "
            "these random ones would be found nowhere again; train the model itself first"
        )
    if not isinstance(model, (str, Path)):
        raise ModelError(
            f"an adapter on a loaded {type(model).__name__} is refused: its run must name the model, "
            "to find it again; give the model's folder or hub id"
        )
    path = Path(model)
    if (path / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"'{model}' holds an adapter already, and an adapter of an adapter is not kept; continue "
            "that run with --resume, or start from its model"
        )
    return str(path.resolve()) if path.exists() else str(model)


def check_whole(loaded: Loaded) -> None:
    """Refuse to train a model that has an adapter beside it already, whose weights all stand still.

    Raises:
        ModelError: it has one.
    """
    if is_adapted(loaded.model):
        raise ModelError(
            f"'{loaded.name}' holds an adapter, beside a model whose weights it leaves as they are, so "
            "nothing would train; continue that run with --resume, or start from its model"
        )


def adapted(loaded: Loaded, adapter: Adapter, *, family: Family, base: str, seed: int) -> Loaded:
    """Return a model with a new adapter beside it; only the adapter's weights will train.

    Args:
        loaded: the model and its tokenizer.
        adapter: what to put beside it.
        family: the task's.
        base: what `base_name` returned.
        seed: for the adapter's first weights.
    Raises:
        ModelError: the model does not take it; the text says what it has.
    """
    model = loaded.model
    account = {"name": base, "fingerprint": _fingerprint(model)}
    config = _lora(model, adapter, family) if isinstance(adapter, Lora) else _soft(model, adapter)
    try:
        with quiet(), random_state(seed):
            whole = peft().get_peft_model(model, config)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"'{adapter}' cannot be put beside a {type(model).__name__}: {error}; its layers are "
            f"{', '.join(_layers(model))}"
        ) from error
    whole.peft_config["default"].base_model_name_or_path = base
    if isinstance(adapter, PromptTuning) and adapter.init_text is not None:
        ids = _repeated(adapter.init_text, adapter.num_virtual_tokens, loaded.tokenizer)
        with torch().no_grad():
            vectors = whole.word_embeddings(torch().from_numpy(ids))
            whole.prompt_encoder["default"].embedding.weight.copy_(vectors)
    _saves_itself_alone(whole)
    return attrs.evolve(loaded, model=whole, base=account)


def open_adapter(folder: Path, family: Family) -> tuple[Any, Any]:
    """Return an adapter with its model, and a function that finds the tokenizer.

    Args:
        folder: peft's layout: `adapter_config.json` and `adapter_model.safetensors`.
        family: which head the model needs.
    Raises:
        ModelError: the model is not where it was, is another one than it was, or does not fit.
        MissingExtra: peft is not installed.
    """
    library = peft()
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise ModelError(f"'{folder}' is an adapter without its weights: it has no {_WEIGHTS[0]}")
    base = _base_of(folder)
    model, own = _open_base(folder, base, family)
    _check_same(folder, model, base)
    try:
        with quiet():
            whole = library.PeftModel.from_pretrained(model, str(folder))
    except Exception as error:  # damaged files, other shapes: they share no base
        raise ModelError(f"the adapter '{folder}' does not fit '{base}': {error}") from error
    if (folder / "generation_config.json").is_file():
        settings = transformers().GenerationConfig.from_pretrained(str(folder))
        model.generation_config = settings
    _saves_itself_alone(whole)
    return whole, (lambda: folder) if (folder / "tokenizer.json").is_file() else own


def is_soft_prompt(model: Any) -> bool:
    """Say whether a model's adapter stands before its prompts."""
    return is_adapted(model) and bool(model.active_peft_config.is_prompt_learning)


def merged(model: Any) -> Any:
    """Return the base with a LoRA's updates in its weights; the model itself is used up.

    Raises:
        ModelError: what came out is not a number, so the adapter is broken.
    """
    try:
        with quiet():
            return model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(f"the adapter cannot be merged: {error}") from error


def key_value_prefix(model: Any) -> np.ndarray:
    """Return what a soft prompt leaves in every layer's cache, float32 [layers, 2, KV, n, D].

    Reading the virtual tokens first and the prompt behind them is reading them together, as each
    token sees only those before it. So their keys and values are the same before every prompt.
    """
    was_training = model.training
    model.eval()
    try:
        with torch().inference_mode():
            vectors = model.get_prompt(batch_size=1)
            cache = transformers().DynamicCache()  # without a config it drops nothing of a window
            base_of(model)(inputs_embeds=vectors, past_key_values=cache, use_cache=True)
    finally:
        model.train(was_training)
    layers = [(layer.keys[0], layer.values[0]) for layer in cache.layers]
    prefix = [[part.float().cpu().numpy() for part in layer] for layer in layers]
    return np.asarray(prefix, dtype=np.float32)


def _lora(model: Any, adapter: Lora, family: Family) -> Any:
    names = adapter.target_modules
    if names is not None and names != (ALL_LINEAR,):
        _check_layers(model, names)
    return peft().LoraConfig(
        task_type=_TASK_TYPES[family],
        r=adapter.r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        target_modules=ALL_LINEAR
        if names == (ALL_LINEAR,)
        else None
        if names is None
        else [*names],
        use_rslora=adapter.use_rslora,
    )


def _soft(model: Any, adapter: PromptTuning) -> Any:
    most = context_length(model)
    if most is not None and adapter.num_virtual_tokens > most - 2:
        raise ModelError(
            f"{adapter.num_virtual_tokens} virtual tokens leave no room in a context of {most}; "
            "choose fewer"
        )
    return peft().PromptTuningConfig(
        task_type=_TASK_TYPES[Family.CAUSAL],
        num_virtual_tokens=adapter.num_virtual_tokens,
        prompt_tuning_init="SAMPLE_VOCAB",
    )


def _repeated(text: str, count: int, tokenizer: Tokenizer) -> Ids:
    """Return a text's ids, int64 [count], repeated or cut, as peft does it with its own tokenizer.

    Source: peft.tuners.prompt_tuning.model.PromptEmbedding.
    """
    ids = [*tokenizer.opening_ids, *tokenizer.encode(text)]
    if not ids:
        raise ModelError(f"init_text {text!r} has no tokens")
    return np.resize(np.asarray(ids, dtype=np.int64), count)


def _check_layers(model: Any, names: Iterable[str]) -> None:
    """Refuse a layer that is not there; peft would leave it out if it finds another one."""
    known = [name for name, _ in model.named_modules()]
    for name in names:
        if not any(found == name or found.endswith(f".{name}") for found in known):
            raise UnknownName(f"layer of this {type(model).__name__}", name, _layers(model))


def _layers(model: Any) -> list[str]:
    """Return the ends of the names of all layers that are matrices."""
    found = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if getattr(getattr(module, "weight", None), "ndim", 0) == 2
    }
    return sorted(found)


def _saves_itself_alone(model: Any) -> None:
    """Make `save_pretrained`, which the trainer calls too, write the adapter and nothing else.

    peft would look up the base's config, on the hub even, to see whether its embeddings have grown,
    and would add a model card; here they never grow, and a run has its own account.
    """
    model.save_pretrained = functools.partial(model.save_pretrained, save_embedding_layers=False)
    model.create_or_update_model_card = lambda folder: None


def _base_of(folder: Path) -> str:
    """Return the name of the model that an adapter belongs to."""
    file = folder / ADAPTER_CONFIG
    try:
        config: dict[str, Any] = json.loads(file.read_text("utf-8"))
        kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"'{file}' cannot be read as JSON: {error}") from error
    if kind not in KINDS:
        raise ModelError(f"'{folder}' is a {kind} adapter; lmkit opens {' and '.join(KINDS)}")
    if not base:
        raise ModelError(f"'{file}' does not name the model it belongs to: base_model_name_or_path")
    return str(base)


def _open_base(folder: Path, base: str, family: Family) -> tuple[Any, Any]:
    path = Path(base)
    if path.is_absolute() and not path.exists():
        raise ModelError(
            f"'{folder}' is an adapter of the model '{base}', which is not there any more; put it "
            f"back, or write its new place into {ADAPTER_CONFIG} as base_model_name_or_path"
        )
    try:
        return open_model(base, family)
    except ModelError as error:
        raise ModelError(f"'{folder}' is an adapter of another model: {error}") from error


def _check_same(folder: Path, model: Any, base: str) -> None:
    """Refuse a base whose weights are others than when the adapter was trained beside them."""
    file = folder / RUN_FILE
    about = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    expected = (about.get("base") or {}).get("fingerprint")
    if expected is not None and expected != _fingerprint(model):
        raise ModelError(
            f"'{folder}' is an adapter of the model '{base}', whose weights have changed since; put "
            "the old ones back, or train the adapter anew"
        )


def _fingerprint(model: Any) -> str:
    """Return a sha256 over each tensor's name, shape and a few of its numbers: quick, and enough."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // _SAMPLES)].float().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(some.tobytes())
    return digest.hexdigest()
