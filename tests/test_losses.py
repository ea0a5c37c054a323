"""Losses that a task names: their JSON, their tokens, and their figures by hand."""

import json
import math
from types import SimpleNamespace

import attrs
import numpy as np
import pytest

import lmkit as lk
from lmkit.encoding import IGNORE
from lmkit.errors import SerialError, TaskError, UnknownOption
from lmkit.family import Family
from lmkit.losses import KeytokenWeighted, LossFunction
from lmkit.saving.jsonform import dump, from_json, to_json

QA = lk.get_task("qa")


@attrs.frozen
class Flat:
    """A plugin's loss: every row counts the same, whatever is in it."""

    families = frozenset(Family)

    def prepare(self, tokenizer): ...


class TestAsAPartOfATask:
    def test_a_task_has_none_unless_it_names_one(self):
        assert QA.loss is None
        assert QA.evolve(loss=lk.keytoken_weighted(["a"])).loss == KeytokenWeighted(("a",), 1.0)

    def test_it_goes_through_json(self):
        task = QA.evolve(loss=lk.keytoken_weighted(tokens=["네", " yes"], alpha=2))

        data = json.loads(dump(to_json(task)))

        assert data["loss"] == {"type": "KeytokenWeighted", "tokens": ["네", " yes"], "alpha": 2.0}
        assert from_json(data, lk.Task) == task

    def test_a_task_json_from_before_there_were_losses_is_read(self):
        data = {key: part for key, part in to_json(QA).items() if key != "loss"}

        assert from_json(data, lk.Task) == QA

    def test_a_plugins_class_goes_through_json(self, monkeypatch):
        import importlib

        offered = SimpleNamespace(components={"flat:Flat": Flat})
        monkeypatch.setattr(importlib.import_module("lmkit.plugins"), "installed", lambda: offered)
        task = QA.evolve(loss=Flat())

        assert to_json(task)["loss"] == {"type": "flat:Flat"}
        assert from_json(to_json(task), lk.Task) == task

    def test_one_that_no_plugin_offers_cannot_become_json(self):
        with pytest.raises(SerialError, match=r"Flat has no name in JSON.*lmkit_components"):
            to_json(QA.evolve(loss=Flat()))

    def test_another_part_in_its_place_is_refused(self):
        data = {**to_json(QA), "loss": to_json(lk.TextDecoder())}

        with pytest.raises(SerialError, match=r'loss: "type": "TextDecoder" is no loss'):
            from_json(data, lk.Task)
        with pytest.raises(TaskError, match="loss is a TextDecoder, not a loss"):
            QA.evolve(loss=lk.TextDecoder())

    def test_of_another_family_than_the_collators_is_refused_naming_both(self):
        class Masked(Flat):
            families = frozenset({Family.MASKED, Family.SEQ2SEQ})

        with pytest.raises(
            TaskError, match="a CausalCollator makes causal rows, and a Masked measures masked, seq"
        ):
            QA.evolve(loss=Masked())


class TestKeyTokens:
    @pytest.mark.parametrize("tokens", [[], "", ["a", ""], [3]])
    def test_there_is_at_least_one_and_none_is_empty(self, tokens):
        with pytest.raises(TaskError, match="tokens is"):
            lk.keytoken_weighted(tokens)

    @pytest.mark.parametrize("alpha", [0, -1, math.inf, True, "1"])
    def test_alpha_is_a_number_above_zero(self, alpha):
        with pytest.raises(TaskError, match=r"alpha is .*; expected a number above 0"):
            lk.keytoken_weighted(["a"], alpha=alpha)

    def test_a_misspelt_option_is_refused_with_the_near_name(self):
        with pytest.raises(UnknownOption, match="close to: tokens"):
            lk.keytoken_weighted(token=["a"])

    def test_each_is_one_token_of_the_tokenizer(self, toy):
        assert lk.keytoken_weighted(["네", "a", "<|im_end|>"]).prepare(toy).ids == tuple(
            sorted(map(toy.token_to_id, ("네", "a", "<|im_end|>")))
        )

    def test_a_space_before_a_word_belongs_to_its_token(self, load_shared):
        gpt2 = load_shared("gpt2")

        loss = lk.keytoken_weighted([" fit", "fit", "Ġfit"]).prepare(gpt2)

        assert loss.ids == tuple(sorted(map(gpt2.token_to_id, ("Ġfit", "fit"))))

    def test_sentencepiece_has_its_own_mark_for_the_space(self, load_shared):
        t5 = load_shared("t5")

        assert lk.keytoken_weighted([" fit", "▁fit"]).prepare(t5).ids == (t5.token_to_id("▁fit"),)

    @pytest.mark.parametrize("token", ["漢", "😊"])
    def test_one_outside_the_vocabulary_is_named(self, toy, token):
        with pytest.raises(TaskError, match=f"the key token '{token}' is not in the tokenizer's"):
            lk.keytoken_weighted(["a", token]).prepare(toy)

    def test_one_that_is_several_tokens_is_named_with_them(self, toy):
        with pytest.raises(TaskError, match=r"the key token 'ab' is not in .* 2 \('a', 'b'\)"):
            lk.keytoken_weighted(["ab"]).prepare(toy)

    def test_is_a_loss_function(self):
        assert isinstance(lk.keytoken_weighted(["a"]), LossFunction)


def seeds_form(torch, inputs, logits, keytoken_ids, alpha):
    """The course's own formula: every token but the first is learned, padding too."""
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), inputs[:, 1:].flatten(), reduction="none"
    )
    per_row = losses.view(len(inputs), -1).mean(dim=1)
    n_keys = sum((inputs == token).sum(dim=1) for token in keytoken_ids)
    return (per_row * alpha * (1.0 + n_keys)).mean()


class TestItsFigure:
    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    @pytest.fixture
    def loss(self, toy):
        return lk.keytoken_weighted(["<s>", "<pad>"], alpha=0.5).prepare(toy)

    @pytest.fixture
    def batch(self, torch, toy):
        """Two rows over a vocabulary of six, drawn from a seed; ids 3 and 4 are the key tokens."""
        rng = np.random.default_rng(3)
        ids = torch.tensor([[1, 3, 2, 3, 5], [4, 1, 2, 2, 0]])
        assert {toy.token_to_id("<s>"), toy.token_to_id("<pad>")} == {3, 4}
        return ids, torch.from_numpy(rng.normal(size=(2, 5, 6)).astype(np.float32))

    def mean(self, loss, ids, logits, labels, mask):
        places = logits[:, :-1], labels[:, 1:]
        return loss.total(*places, ids, mask) / loss.count(places[1])

    def test_equals_the_seeds_where_every_token_is_learned(self, torch, loss, batch):
        ids, logits = batch

        ours = self.mean(loss, ids, logits, ids.clone(), torch.ones_like(ids))

        assert float(ours) == pytest.approx(float(seeds_form(torch, ids, logits, [3, 4], 0.5)))

    def test_leaves_out_the_prompt_and_the_padding_by_hand(self, torch, loss, batch):
        """Row one learns its last two tokens and holds two key tokens, both in the prompt's reach.
        Row two learns one token, holds one key token, and its padding (id 4) is none."""
        ids, logits = batch
        ids = ids.clone()
        ids[1, 3:] = 4
        labels = torch.full_like(ids, IGNORE)
        labels[0, 3:], labels[1, 2] = ids[0, 3:], ids[1, 2]
        mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
        nll = -torch.log_softmax(logits, dim=-1)
        first = float(nll[0, 2, 3] + nll[0, 3, 5]) / 2 * 0.5 * (1 + 2)
        second = float(nll[1, 1, 2]) * 0.5 * (1 + 1)

        ours = self.mean(loss, ids, logits, labels, mask)

        assert float(ours) == pytest.approx((first + second) / 2)
        assert float(ours) != pytest.approx(float(seeds_form(torch, ids, logits, [3, 4], 0.5)))

    def test_a_row_in_which_nothing_is_learned_counts_for_nothing(self, torch, loss, batch):
        ids, logits = batch
        labels = ids.clone()
        labels[1] = IGNORE

        both = self.mean(loss, ids, logits, labels, torch.ones_like(ids))
        alone = self.mean(loss, ids[:1], logits[:1], labels[:1], torch.ones_like(ids[:1]))

        assert float(both) == pytest.approx(float(alone))

    def test_gradients_flow_and_are_finite(self, torch, loss, batch):
        ids, logits = batch
        logits = logits.clone().requires_grad_()
        labels = ids.clone()
        labels[1] = IGNORE

        self.mean(loss, ids, logits, labels, torch.ones_like(ids)).backward()

        assert torch.isfinite(logits.grad).all()
        assert logits.grad[0].abs().sum() > 0
        assert logits.grad[1].abs().sum() == 0
