"""Packed rows train a model exactly as padded rows do."""

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny import ROWS

import lmkit as lk
from lmkit.collating import text_batch
from lmkit.collating.packing import PackedRows, packed, packed_batch
from lmkit.encoding import IGNORE, Encoded
from lmkit.errors import ModelError
from lmkit.family import Family
from lmkit.train import progress
from lmkit.train.batches import as_tensors
from lmkit.train.packing import check_packing, flat_batch, rows_apart
from lmkit.train.scoring import batch_loss, forward, own_loss

V, WIDTH = 64, 32
COMMON = {
    "vocab_size": V,
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "gpt2": transformers.GPT2Config(
        vocab_size=V, n_layer=2, n_embd=WIDTH, n_head=4, n_positions=64,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, bos_token_id=1, eos_token_id=2,
    ),
    "llama": transformers.LlamaConfig(**COMMON),
    "qwen2 with a sliding window": transformers.Qwen2Config(
        **COMMON, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "qwen3": transformers.Qwen3Config(**COMMON, head_dim=8),
    "gemma2 with a sliding window": transformers.Gemma2Config(
        **COMMON, head_dim=8, sliding_window=4
    ),
    "gemma3 with a sliding window": transformers.Gemma3TextConfig(
        **COMMON, head_dim=8, sliding_window=4
    ),
    "mistral with a sliding window": transformers.MistralConfig(**COMMON, sliding_window=4),
}  # fmt: skip
CASES = [
    (name, kind)
    for name in CONFIGS
    for kind in ("sdpa", "eager")
    if (name, kind) != ("gemma2 with a sliding window", "sdpa")  # transformers has none for it
]


def model_of(name, attention="sdpa"):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        CONFIGS[name], attn_implementation=attention
    )
    with torch.no_grad():  # random weights are so small that a leak would hardly be seen
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return model.eval()


def some_rows(n_rows=9, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n_rows):
        ids = rng.integers(3, V, size=int(rng.integers(3, 14)))
        rows.append(Encoded(ids, np.where(rng.random(len(ids)) < 0.6, ids, IGNORE)))
    return rows


def padded_tensors(rows):
    return as_tensors(text_batch(rows, 0))


def packed_tensors(rows, max_length=24):
    epoch = PackedRows(rows, max_length).epoch(0, seed=7)
    return as_tensors(packed_batch(epoch.draw_all(range(len(epoch)), None), 0))


@pytest.mark.parametrize(("name", "attention"), CASES)
class TestAPackedBatch:
    def test_has_the_loss_of_the_padded_one(self, name, attention):
        model, rows = model_of(name, attention), some_rows()
        ours, plain = (
            batch_loss(model, batch) for batch in (packed_tensors(rows), padded_tensors(rows))
        )

        assert ours.count == plain.count
        assert ours.total / ours.count == pytest.approx(plain.total / plain.count, abs=1e-4)

    def test_has_its_gradients(self, name, attention):
        found = []
        for batch in (packed_tensors(some_rows()), padded_tensors(some_rows())):
            model = model_of(name, attention)
            forward(model, batch, Family.CAUSAL, use_cache=False).loss.backward()
            found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})

        assert found[0].keys() == found[1].keys()
        for key, gradient in found[1].items():
            torch.testing.assert_close(found[0][key], gradient, atol=1e-5, rtol=1e-3, msg=key)

    def test_gives_a_row_the_same_logits_whatever_stands_beside_it(self, name, attention):
        model, rows = model_of(name, attention), some_rows(4)
        others = [rows[0], *some_rows(4, seed=1)[1:]]
        first, second = ([packed([beside[3], rows[0], beside[1]])] for beside in (rows, others))
        at = [len(rows[3]), len(others[3])]
        logits = [
            model(**as_tensors(packed_batch(part, 0)), use_cache=False).logits[0, start:][
                : len(rows[0])
            ]
            for part, start in zip((first, second), at, strict=True)
        ]

        torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)

    def test_is_accepted(self, name, attention):
        check_packing(model_of(name, attention), some_rows(3))


class TestABatchWithoutPadding:
    def test_has_the_same_loss(self):
        model, rows = model_of("llama"), some_rows()
        epoch = PackedRows(rows, 24).epoch(0)
        flat = as_tensors(flat_batch(epoch.draw_all(range(len(epoch)), None)))

        assert flat["input_ids"].shape == (1, sum(map(len, rows)))
        plain = batch_loss(model, padded_tensors(rows))
        assert batch_loss(model, flat).total == pytest.approx(plain.total, rel=1e-5)


class TestALossThatLooksAtRows:
    @pytest.mark.parametrize("name", ["gpt2", "llama"])
    def test_is_that_of_the_padded_rows(self, name, tokenizer):
        loss = lk.keytoken_weighted(["수", "니"], alpha=2.0).prepare(tokenizer)
        model, rows = model_of(name), some_rows()
        found = []
        for batch in (packed_tensors(rows), padded_tensors(rows)):
            with torch.no_grad():
                outputs = forward(model, batch, Family.CAUSAL, use_cache=False)
            total, count = own_loss(loss, batch, outputs.logits, Family.CAUSAL)
            found.append((float(total), int(count)))

        assert found[0][1] == found[1][1]
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)

    def test_sees_each_row_as_it_was(self):
        rows = some_rows()
        apart, _ = rows_apart(packed_tensors(rows))
        found = {
            tuple(ids[mask == 1].tolist())
            for ids, mask in zip(apart["input_ids"], apart["attention_mask"], strict=True)
        }

        assert found == {tuple(row.input_ids.tolist()) for row in rows}
        assert int((apart["labels"] != IGNORE).sum()) == sum(row.n_learned for row in rows)


class TestAModelThatCannotTellRowsApart:
    def test_by_position_is_refused(self):
        model = transformers.BloomForCausalLM(
            transformers.BloomConfig(vocab_size=V, hidden_size=WIDTH, n_layer=1, n_head=4)
        )

        with pytest.raises(ModelError, match="bloom model takes no position_ids"):
            check_packing(model, some_rows(3))

    def test_by_attention_is_refused(self):
        """OPT takes positions, and makes its mask without them."""
        config = transformers.OPTConfig(
            vocab_size=V, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=4,
            ffn_dim=WIDTH, word_embed_proj_dim=WIDTH,
        )  # fmt: skip

        with pytest.raises(ModelError, match="opt model lets packed rows see each other"):
            check_packing(transformers.OPTForCausalLM(config), some_rows(3))

    def test_because_its_positions_begin_elsewhere_is_refused(self, monkeypatch):
        model = model_of("gpt2")
        plain = model.forward

        def shifted(position_ids=None, **options):
            later = None if position_ids is None else position_ids + 2
            return plain(position_ids=later, **options)

        monkeypatch.setattr(model, "forward", shifted)
        with pytest.raises(ModelError, match="reads a packed row otherwise than that row alone"):
            check_packing(model, some_rows(3))

    def test_keeps_the_mode_it_was_in(self):
        model = model_of("gpt2").train()
        check_packing(model, some_rows(3))

        assert model.training


PACKED = lk.get_task("qa").evolve(collator=lk.CausalCollator(max_length=64, pack=True))


@pytest.mark.slow
class TestARun:
    def test_learns_every_token_once_in_an_epoch(self, fit, tmp_path, monkeypatch):
        from lmkit.train.trainer import TaskTrainer

        counts, plain = [], TaskTrainer._total

        def counted(self, inputs, outputs):
            total, count = plain(self, inputs, outputs)
            counts.append((int(count), "position_ids" in inputs))
            return total, count

        monkeypatch.setattr(TaskTrainer, "_total", counted)
        tokens = []
        for task in (PACKED, PACKED.evolve(collator=lk.CausalCollator(max_length=64))):
            counts.clear()
            fit(tmp_path / f"run{len(tokens)}", task=task, max_steps=-1, num_train_epochs=1)
            tokens.append(sum(count for count, _ in counts))
            assert {packed for _, packed in counts} == {task is PACKED}

        assert tokens[0] == tokens[1] > 0

    def test_is_resumed_as_if_never_interrupted(self, fit, tmp_path, monkeypatch):
        options = {
            "task": PACKED, "max_steps": 6, "per_device_train_batch_size": 1,
            "save_strategy": "steps", "save_steps": 2,
        }  # fmt: skip

        def crash(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(progress.Progress, "on_step_end", crash)
            with pytest.raises(KeyboardInterrupt):
                fit(tmp_path / "run", **options)
        resumed = fit(tmp_path / "run", **options, resume=True)
        whole = fit(tmp_path / "whole", **options)

        ours, theirs = (load_file(run.path / "model.safetensors") for run in (resumed, whole))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    def test_of_a_mixture_tells_each_tasks_loss(self, fit, tmp_path):
        other = PACKED.evolve(name="other")
        run = fit(
            tmp_path / "mixed", task=lk.mix({PACKED: 3, other: 1}), max_steps=4, logging_steps=4,
            data={"qa": ROWS, "other": ROWS},
        )  # fmt: skip

        log = (run.path / "metrics.jsonl").read_text("utf-8")
        assert "loss_qa" in log
        assert "loss_other" in log

    def test_with_a_loss_of_its_own_goes_on(self, fit, tmp_path):
        task = PACKED.evolve(loss=lk.keytoken_weighted(["수"]))

        assert fit(tmp_path / "run", task=task).metrics["train_loss"] > 0
