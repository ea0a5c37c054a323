"""transformers' `generate()` with torch on the CPU: what a checkpoint is run with where it was made.

Its best settings here: scaled dot-product attention, the cache of `generate()`, inference mode, and
weights in the precision asked for (fp32, or bf16 where the label says so). `torch.compile` is off, as
it is unless one asks for it: it needs a compiler, and minutes before the first token.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers

MODELS = {
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "masked": "AutoModelForMaskedLM",
}


class Side:
    """A model's folder."""

    def __init__(self, given: dict[str, Any]) -> None:
        transformers.logging.set_verbosity_error()
        torch.set_num_threads(given["threads"])
        torch.set_grad_enabled(False)
        dtype = torch.bfloat16 if given.get("precision") == "bf16" else torch.float32
        kind = getattr(transformers, MODELS[given["family"]])
        try:
            self._model = kind.from_pretrained(
                given["model"], dtype=dtype, attn_implementation="sdpa"
            )
            attention = "sdpa"
        except ValueError:  # an architecture without that attention
            self._model = kind.from_pretrained(given["model"], dtype=dtype)
            attention = "its own attention"
        self._model.eval()
        self.library = f"transformers {transformers.__version__}, torch {torch.__version__}"
        name = str(dtype).partition(".")[2]
        self.settings = f"{name}, {attention}, {given['threads']} threads"

    def run(self, work: dict[str, Any]) -> dict[str, Any]:
        """Do a piece of work; tell when each step was done, and the ids."""
        return run(self._model, work)

    def score(self, rows: list[list[int]]) -> list[list[float]]:
        """Return the log-probability of each id of each row behind its first."""
        return score(self._model, rows)


def score(model: Any, rows: list[list[int]]) -> list[list[float]]:
    """Score rows with anything that is called as a causal model of transformers is."""
    found = []
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([row])
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1]
            log_probs = logits.float().log_softmax(-1)
            found.append(log_probs.gather(1, ids[0, 1:, None])[:, 0].tolist())
    return found


def run(model: Any, work: dict[str, Any]) -> dict[str, Any]:
    """Do a piece of work with anything that has transformers' `generate()`."""
    with torch.inference_mode():
        ids = torch.tensor(work["prompts"])
        mask = torch.ones_like(ids)
        start = time.perf_counter()
        if work["family"] == "masked":
            logits = model(input_ids=ids, attention_mask=mask).logits
            rows = zip(logits, ids == work["mask_id"], strict=True)
            fills = [row[at].argmax(-1).tolist() for row, at in rows]
            return {"times": [time.perf_counter() - start], "ids": fills}
        clock = Clock()
        n_tokens, n_beams = work["new_tokens"], work["beams"]
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=n_tokens,
            min_new_tokens=n_tokens,
            do_sample=False,
            num_beams=n_beams,
            streamer=clock if n_beams == 1 else None,
            pad_token_id=work["pad_id"],
        )
        end = time.perf_counter()
    times = [when - start for when in clock.times[1:]] if n_beams == 1 else [end - start]
    return {"times": times, "ids": found[:, -n_tokens:].tolist()}


class Clock:
    """A streamer that notes when tokens come; the first thing that it is given is the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, tokens: Any) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to do."""
