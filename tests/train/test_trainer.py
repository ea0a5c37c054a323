"""One optimizer step is one mean, however its rows fall into batches."""

import json

import numpy as np
import pytest
import torch
import transformers
from tiny import ROWS

import lmkit as lk
from lmkit.encoding import IGNORE
from lmkit.errors import LmkitError, TaskError
from lmkit.family import Family
from lmkit.train.scoring import mean_loss
from lmkit.train.trainer import TaskTrainer

V, WIDTH = 40, 16
KEYS = lk.keytoken_weighted(["수", "니"], alpha=2.0)


def causal():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=V, n_layer=1, n_embd=WIDTH, n_head=2, n_positions=32,
            attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
            bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )
    )  # fmt: skip


def masked():
    return transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=V, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=WIDTH, max_position_embeddings=32,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


def seq2seq():
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=V, d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2,
            dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0,
        )
    )  # fmt: skip


MODELS = {Family.CAUSAL: causal, Family.MASKED: masked, Family.SEQ2SEQ: seq2seq}


class Ragged:
    """Eight rows of unlike lengths, of which some learn much, some little and one nothing."""

    def __init__(self, n_rows=8):
        rng = np.random.default_rng(5)
        self.rows = []
        for index in range(n_rows):
            ids = rng.integers(5, V, size=3 + 2 * index)
            labels = np.where(rng.random(len(ids)) < (index + 1) / 9, ids, IGNORE)
            self.rows.append(
                (ids, np.full_like(labels, IGNORE) if index == 2 else labels, index % 2)
            )

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def collate(rows):
    width = max(len(ids) for ids, _, _ in rows)

    def filled(parts, fill):
        return torch.tensor([[*part, *[fill] * (width - len(part))] for part in parts])

    return {
        "input_ids": filled([ids for ids, _, _ in rows], 0),
        "attention_mask": filled([np.ones_like(ids) for ids, _, _ in rows], 0),
        "labels": filled([labels for _, labels, _ in rows], IGNORE),
    }


def with_group(rows):
    return {**collate(rows), "group": torch.tensor([group for _, _, group in rows])}


def trained(tmp_path, family, batch, steps, *, task_loss=None, n_rows=8, collator=collate, **more):
    """Return the parameters after an epoch of stochastic gradient descent, and what was logged."""
    torch.manual_seed(1)
    trainer = TaskTrainer(
        family=family,
        task_loss=task_loss,
        groups=more.pop("groups", ()),
        model=MODELS[family](),
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps, num_train_epochs=1, optim="sgd", learning_rate=0.5,
            lr_scheduler_type="constant", max_grad_norm=0.0, save_strategy="no", report_to="none",
            logging_steps=1, use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
            dataloader_pin_memory=False, train_sampling_strategy="sequential", **more,
        ),
        train_dataset=Ragged(n_rows),
        data_collator=collator,
    )  # fmt: skip
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}, logs


def same(one, other):
    return all(torch.allclose(one[name], other[name], rtol=0, atol=1e-6) for name in one)


@pytest.fixture(scope="module")
def keys():
    """Return `keytoken_weighted` over two of the vocabulary's ids."""
    names = {str(index): index for index in range(V)}
    import tokenizers

    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, unk_token="0"))
    return lk.keytoken_weighted(["7", "23"], alpha=1.5).prepare(lk.Tokenizer(backend.to_str()))


class TestAccumulation:
    @pytest.mark.parametrize("family", list(Family))
    @pytest.mark.parametrize("batch", [1, 2])
    def test_batches_that_are_accumulated_are_one_large_batch(self, tmp_path, family, batch):
        """BERT's and T5's heads take the number of items and do not use it."""
        whole, logs = trained(tmp_path, family, 8, 1)

        parts, part_logs = trained(tmp_path, family, batch, 8 // batch)

        assert same(parts, whole)
        assert part_logs[0]["loss"] == pytest.approx(logs[0]["loss"], rel=1e-5)

    def test_the_step_did_move_the_weights(self, tmp_path):
        torch.manual_seed(1)
        before = dict(causal().named_parameters())

        after, _ = trained(tmp_path, Family.CAUSAL, 8, 1)

        assert not same(after, before)

    @pytest.mark.parametrize("batch", [1, 2])
    def test_under_a_tasks_own_loss_too(self, tmp_path, keys, batch):
        whole, _ = trained(tmp_path, Family.CAUSAL, 8, 1, task_loss=keys)

        parts, _ = trained(tmp_path, Family.CAUSAL, batch, 8 // batch, task_loss=keys)

        assert same(parts, whole)
        assert not same(whole, trained(tmp_path, Family.CAUSAL, 8, 1)[0])

    @pytest.mark.parametrize("own", [False, True])
    def test_an_epochs_last_incomplete_step_is_a_mean_over_what_it_has(self, tmp_path, keys, own):
        """Six rows in steps of four: the second has two."""
        loss = keys if own else None

        whole, _ = trained(tmp_path, Family.CAUSAL, 4, 1, n_rows=6, task_loss=loss)
        parts, _ = trained(tmp_path, Family.CAUSAL, 1, 4, n_rows=6, task_loss=loss)

        assert same(parts, whole)

    @pytest.mark.parametrize("family", list(Family))
    def test_with_smoothed_labels_as_well(self, tmp_path, family):
        whole, _ = trained(tmp_path, family, 8, 1, label_smoothing_factor=0.2)

        parts, _ = trained(tmp_path, family, 2, 4, label_smoothing_factor=0.2)

        assert same(parts, whole)
        assert not same(whole, trained(tmp_path, family, 8, 1)[0])

    def test_the_causal_step_is_the_stock_trainers(self, tmp_path):
        """The reference: GPT-2's head does divide by the number of items. Stock counts a row's first
        label in, which nothing predicts, so here it has none."""

        def from_the_second(rows):
            batch = collate(rows)
            batch["labels"][:, 0] = IGNORE
            return batch

        ours, _ = trained(tmp_path, Family.CAUSAL, 2, 4, collator=from_the_second)
        torch.manual_seed(1)
        stock = transformers.Trainer(
            model=causal(),
            args=transformers.TrainingArguments(
                output_dir=str(tmp_path), per_device_train_batch_size=2,
                gradient_accumulation_steps=4, num_train_epochs=1, optim="sgd", learning_rate=0.5,
                lr_scheduler_type="constant", max_grad_norm=0.0, save_strategy="no",
                report_to="none", use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
                dataloader_pin_memory=False, train_sampling_strategy="sequential",
            ),
            train_dataset=Ragged(),
            data_collator=from_the_second,
        )  # fmt: skip
        stock.remove_callback(transformers.PrinterCallback)
        stock.train()

        assert same(ours, dict(stock.model.named_parameters()))


class TestGroups:
    def test_each_ones_loss_is_the_mean_over_its_own_learned_tokens(self, tmp_path):
        """Before the first step, so that the model at hand is the one that was measured."""
        torch.manual_seed(1)
        model, rows = causal().eval(), Ragged().rows
        expected = [
            mean_loss(model, [collate([row for row in rows if row[2] == group])]).figures()["loss"]
            for group in (0, 1)
        ]

        _, logs = trained(
            tmp_path, Family.CAUSAL, 2, 4, collator=with_group, groups=("ko-qa", "alpaca")
        )

        assert [logs[0]["loss_ko-qa"], logs[0]["loss_alpaca"]] == pytest.approx(expected, rel=1e-4)

    def test_they_change_nothing_of_the_training(self, tmp_path):
        without, _ = trained(tmp_path, Family.CAUSAL, 4, 1)
        with_them, logs = trained(
            tmp_path, Family.CAUSAL, 4, 1, collator=with_group, groups=("a", "b")
        )

        assert same(without, with_them)
        assert {"loss_a", "loss_b"} <= logs[1].keys()

    def test_each_log_is_about_what_came_since_the_last(self, tmp_path):
        """A row a step: of the two tasks only the row's own is heard of, and not from row three,
        in which nothing is learned."""
        _, logs = trained(tmp_path, Family.CAUSAL, 1, 1, collator=with_group, groups=("a", "b"))

        heard = [{key for key in entry if key.startswith("loss_")} for entry in logs]
        assert heard[3:] == [{"loss_b"}, {"loss_a"}, {"loss_b"}, {"loss_a"}, {"loss_b"}]
        assert heard[2] == set()
        assert logs[4]["loss_a"] == pytest.approx(logs[4]["loss"], rel=1e-4)


@pytest.fixture(scope="module")
def own(fit, tmp_path_factory):
    """Return a run whose task names a loss."""
    task = lk.get_task("qa").evolve(loss=KEYS)
    folder = tmp_path_factory.mktemp("own") / "run"
    return fit(folder, task=task, eval_data=ROWS[:5], logging_steps=1)


class TestATasksOwnLoss:
    def test_is_what_training_reports_and_perplexity_stays_the_tokens(self, own):
        found = lk.evaluate(own, data=ROWS[:5])

        assert own.metrics["eval_perplexity"] == pytest.approx(found["perplexity"], rel=1e-4)
        assert own.metrics["eval_loss"] == pytest.approx(found["loss"], rel=1e-4)
        assert own.metrics["eval_task_loss"] > 2 * own.metrics["eval_loss"]

    def test_its_evaluation_is_the_figure_by_hand(self, own, tokenizer):
        model = transformers.AutoModelForCausalLM.from_pretrained(own).eval()
        expected = []
        for row in lk.encode(own.task, ROWS[:5], tokenizer):
            ids, labels = torch.from_numpy(row.input_ids), torch.from_numpy(row.labels)
            with torch.no_grad():
                logits = model(input_ids=ids[None]).logits[0, :-1]
            nll = torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=IGNORE)
            n_keys = sum(
                token in {tokenizer.token_to_id(k) for k in KEYS.tokens} for token in ids.tolist()
            )
            expected.append(float(nll) * KEYS.alpha * (1 + n_keys))

        assert own.metrics["eval_task_loss"] == pytest.approx(np.mean(expected), rel=1e-4)

    def test_of_a_mixture_is_measured_task_by_task_and_over_all(self, fit, tmp_path):
        tasks = [lk.get_task("qa").evolve(name=name, loss=KEYS) for name in ("one", "two")]
        data = {"one": ROWS[:4], "two": ROWS[4:6]}

        run = fit(
            tmp_path / "run", task=lk.mix(dict.fromkeys(tasks, 1)), data=data, eval_data=data,
            num_train_epochs=1,
        )  # fmt: skip

        whole = run.metrics["eval_task_loss"]
        parts = [run.metrics[f"eval_{name}_task_loss"] for name in ("one", "two")]
        assert whole == pytest.approx((4 * parts[0] + 2 * parts[1]) / 6)
        assert whole > run.metrics["eval_loss"]

    def test_is_in_the_runs_task(self, own):
        assert json.loads((own.path / "task.json").read_text("utf-8"))["loss"]["alpha"] == 2.0
        assert lk.get_task(own.path / "task.json").loss == KEYS

    def test_a_key_token_outside_the_vocabulary_is_refused_before_any_work(self, fit, tmp_path):
        task = lk.get_task("qa").evolve(loss=lk.keytoken_weighted(["漢"]))

        with pytest.raises(TaskError, match="the key token '漢' is not in the tokenizer's"):
            fit(tmp_path / "run", task=task)

        assert not (tmp_path / "run").exists()

    def test_and_smoothed_labels_are_two_losses(self, fit, tmp_path):
        task = lk.get_task("qa").evolve(loss=KEYS)

        with pytest.raises(LmkitError, match=r"label_smoothing_factor cannot be set: .* Keytoken"):
            fit(tmp_path / "run", task=task, label_smoothing_factor=0.1)

        assert not (tmp_path / "run").exists()
