"""A bundle that would answer differently from torch is refused with figures, and leaves nothing."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from exported import CONTEXT_LENGTH, ROWS  # noqa: E402

import lmkit as lk  # noqa: E402
from lmkit.answering import open_answerer  # noqa: E402
from lmkit.errors import ParityError  # noqa: E402
from lmkit.export import external, parity  # noqa: E402
from lmkit.export.probes import TEXTS, probe_records  # noqa: E402
from lmkit.export.reference import GREEDY_TOKENS, refer  # noqa: E402
from lmkit.runtime.generator import Generator  # noqa: E402
from lmkit.testing import toy_tokenizer  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tiny_run):
    return open_answerer(tiny_run).model


@pytest.fixture
def ask(tiny_bundle):
    return lk.load(tiny_bundle)


def check_parity(model, ask, records):
    """Return the figures, and the first tokens behind each golden prompt."""
    return parity.compare(refer(model, ask.manifest, ask.tokenizer, records), ask)


RECORDS = [{"prompt": text} for text in (*TEXTS[:3], "네")]


class TestAgreement:
    def test_the_figures_say_what_was_compared(self, model, ask):
        figures, golden = check_parity(model, ask, RECORDS)

        assert figures["greedy_tokens_equal"] is True
        assert figures["prompts"] == len(golden) == len(RECORDS)
        assert figures["longest_past"] > CONTEXT_LENGTH - GREEDY_TOKENS
        assert 0 <= figures["max_logit_difference"] < parity.ABSOLUTE

    def test_each_prompt_is_compared_alone_in_a_ragged_batch_and_behind_a_long_past(
        self, model, ask, monkeypatch
    ):
        seen = []
        compare = parity._tokens

        def note(case, found, name):
            seen.append((name, len(case.prompt)))
            return compare(case, found, name)

        monkeypatch.setattr(parity, "_tokens", note)
        check_parity(model, ask, RECORDS)

        cases = [case for case, _ in seen]
        assert cases == ["a single prompt"] * 4 + ["a long past"] + ["a ragged batch"] * 4
        assert len({length for _, length in seen}) >= 4
        assert seen[4][1] == CONTEXT_LENGTH - GREEDY_TOKENS

    def test_golden_tokens_lead_clearly_so_that_another_machine_agrees(self, model, ask):
        reference = refer(model, ask.manifest, ask.tokenizer, RECORDS)
        _, golden = parity.compare(reference, ask)

        assert any(golden)
        for prompt, tokens in zip(reference.prompts, golden, strict=True):
            assert ask.greedy([prompt], len(tokens) or 1)[0][: len(tokens)] == list(tokens)
            written = ask.forced(prompt, np.array(tokens, dtype=np.int64))[:-1]
            assert written.argmax(axis=-1).tolist() == list(tokens)
            best = np.sort(written, axis=-1)
            assert (best[:, -1] - best[:, -2] > 0.99 * parity.CLEAR_LEAD).all()

    def test_a_prompt_that_had_to_be_cut_is_compared_but_not_golden(self, model, ask):
        long = {"prompt": "날씨 " * 100}

        figures, golden = check_parity(model, ask, [*RECORDS, long])

        assert figures["prompts"] == len(RECORDS) + 1
        assert len(golden) == len(RECORDS)

    def test_it_says_how_often_torch_itself_was_undecided(self, model, ask, monkeypatch):
        """Two tokens of one embedding are equally likely for ever, and either is right."""
        greedy = Generator.greedy
        monkeypatch.setattr(parity, "lead", lambda logits: 0.0)
        monkeypatch.setattr(
            Generator, "greedy", lambda *a: [[ids[0] + 1, *ids[1:]] for ids in greedy(*a)]
        )

        figures, golden = check_parity(model, ask, RECORDS)

        assert figures["ties"] == 2 * len(RECORDS) + 1
        assert all(tokens == () for tokens in golden)


def broken_logits(shift):
    forced = Generator.forced

    def shifted(self, prompt, answer):
        return shift(forced(self, prompt, answer).copy())

    return shifted


class TestDisagreement:
    @pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
    def test_one_wrong_logit_is_refused_with_the_figures(self, model, ask, monkeypatch, value):
        def shift(logits):
            logits[-1, 3] += value
            return logits

        monkeypatch.setattr(Generator, "forced", broken_logits(shift))

        with pytest.raises(ParityError, match=r"a single prompt: a logit differs by \S+ .*expl"):
            check_parity(model, ask, RECORDS)

    def test_rounding_is_no_disagreement(self, model, ask, monkeypatch):
        monkeypatch.setattr(Generator, "forced", broken_logits(lambda logits: logits + 1e-5))

        check_parity(model, ask, RECORDS)

    def test_the_models_own_generation_settings_are_no_disagreement(self, model, ask, monkeypatch):
        config = copy.deepcopy(model.generation_config)
        config.update(repetition_penalty=9.0, no_repeat_ngram_size=1)
        monkeypatch.setattr(model, "generation_config", config)

        figures, _ = check_parity(model, ask, probe_records(ask.task, [], ask.tokenizer))

        assert figures["greedy_tokens_equal"]

    @pytest.mark.parametrize("rows", [1, len(RECORDS)], ids=["a single prompt", "a ragged batch"])
    def test_another_token_is_refused_with_its_place(self, model, ask, monkeypatch, rows):
        """Only in batches of this many rows: what a wrong mask or position would do."""
        greedy = Generator.greedy

        def wrong(self, prompts, count):
            found = greedy(self, prompts, count)
            return (
                [[ids[0], ids[1] + 1, *ids[2:]] for ids in found] if len(found) == rows else found
            )

        monkeypatch.setattr(Generator, "greedy", wrong)
        case = "a single prompt" if rows == 1 else "a ragged batch"

        with pytest.raises(ParityError, match=rf"{case}: greedy token 2 is \[\d+\], torch's"):
            check_parity(model, ask, RECORDS)

    def test_an_answer_that_ends_too_early_is_refused(self, model, ask, monkeypatch):
        greedy = Generator.greedy
        monkeypatch.setattr(Generator, "greedy", lambda *a: [ids[:1] for ids in greedy(*a)])

        with pytest.raises(ParityError, match=r"greedy token 2 is \[\], torch's"):
            check_parity(model, ask, RECORDS)

    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize("forced", [False, True])
    def test_a_weight_that_changed_on_the_way_leaves_no_bundle(
        self, tiny_run, tmp_path, monkeypatch, forced
    ):
        save = external.Weights.save

        def perturbed(self, graphs, data):
            size = save(self, graphs, data)
            weights = np.fromfile(self._folder / data, np.float32)
            weights[: len(weights) // 2] += 0.01
            weights.tofile(self._folder / data)
            return size

        monkeypatch.setattr(external.Weights, "save", perturbed)
        if forced:
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "lmkit.json").write_text("old")

        with pytest.raises(ParityError, match=r"differs by .* no bundle was written"):
            lk.export(tiny_run, output=tmp_path / "out", data=ROWS, force=forced)

        assert [path.name for path in tmp_path.iterdir()] == (["out"] if forced else [])
        if forced:
            assert (tmp_path / "out" / "lmkit.json").read_text() == "old"


class TestProbes:
    def test_without_records_they_are_korean_english_and_emoji_of_unlike_length(self):
        every = lk.train_tokenizer(kind="bpe", vocab_size=300, data=[{"text": "a"}])

        records = probe_records(lk.get_task("qa"), [], every)

        assert [record["prompt"] for record in records] == list(TEXTS)
        assert any("가" <= letter <= "힣" for letter in TEXTS[0])
        assert "‍" in TEXTS[2]
        assert len({len(text) for text in TEXTS}) == len(TEXTS)

    def test_a_chat_gets_turns_and_a_flat_task_its_columns(self):
        chat = probe_records(lk.get_task("chat"), [], toy_tokenizer())
        alpaca = probe_records(lk.get_task("alpaca"), [], toy_tokenizer())

        assert chat[0] == {"messages": [{"role": "user", "content": TEXTS[0]}]}
        assert alpaca[0] == {"instruction": TEXTS[0], "input": TEXTS[0]}

    def test_the_users_records_are_spread_picks_without_their_answers(self):
        rows = [{"prompt": str(n), "completion": "x", "more": 1} for n in range(40)]

        records = probe_records(lk.get_task("qa"), rows, toy_tokenizer())

        assert records == [{"prompt": str(n)} for n in (0, 10, 20, 30)]

    def test_of_a_text_they_are_pieces_of_unlike_length_from_all_over_it(self):
        text = "".join(map(chr, range(0xAC00, 0xAC00 + 400)))

        records = probe_records(lk.get_task("char-lm"), [{"text": text}], toy_tokenizer())

        assert [record["prompt"] for record in records] == [
            text[0:8],
            text[100:116],
            text[200:224],
            text[300:332],
        ]

    def test_the_built_in_ones_keep_only_what_the_tokenizer_knows(self):
        strict = lk.train_tokenizer(kind="char", data=[{"text": "What is it?"}])

        records = probe_records(lk.get_task("qa"), [], strict)

        assert records[1] == {"prompt": "What is th aita  a?"}
        assert all(strict.unknown_in(record["prompt"]) == [] for record in records)

    def test_the_users_records_are_not_changed(self):
        rows = [{"prompt": "a", "completion": "b"}] * 4

        probe_records(lk.get_task("qa"), rows, toy_tokenizer())

        assert rows == [{"prompt": "a", "completion": "b"}] * 4
