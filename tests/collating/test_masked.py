import json
import warnings

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from toys import BERT_CONTROL as CONTROL
from toys import wordpiece

import lmkit as lk
from lmkit.collating import Collator
from lmkit.collating.masked import MaskedCollator
from lmkit.encoding import IGNORE, Encoded, encode, prompt_ids
from lmkit.errors import RecordError, TaskError, TokenizerError
from lmkit.family import Family
from lmkit.formatting import Segment
from lmkit.tokenizing.words import Words
from lmkit.train.feeding import TrainingRows

TASK = lk.get_task("mlm")


@pytest.fixture(scope="module")
def bert():
    return wordpiece()


@pytest.fixture(scope="module")
def hf(bert):
    """Return the same tokenizer as transformers knows it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Backend.from_str(bert.definition),
        **bert.special,
        cls_token="[CLS]",
    )


def row_of(text, tokenizer, **options):
    collator = MaskedCollator(**options)
    return collator.encode([Segment(text)], tokenizer, delimited=False)


def tokens(ids, tokenizer):
    return [tokenizer.id_to_token(token) for token in ids]


def seeded(*seed):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def rows(bert):
    """Ten thousand rows of a hundred tokens each: a million tokens that may be hidden."""
    rng = seeded(1)
    bodies = rng.integers(len(CONTROL), bert.vocab_size, size=(10_000, 100))
    ids = np.pad(bodies, ((0, 0), (1, 1)), constant_values=((0, 0), (2, 3)))
    labels = np.where(ids >= len(CONTROL), ids, IGNORE)
    return [Encoded(*pair, family=Family.MASKED) for pair in zip(ids, labels, strict=True)]


class TestARow:
    def test_is_framed_as_the_tokenizer_frames_a_text(self, bert, hf):
        row = row_of("영화는 정말 좋았다!", bert)

        assert row.input_ids.tolist() == hf("영화는 정말 좋았다!")["input_ids"]
        assert row.family is Family.MASKED

    def test_has_a_label_wherever_a_token_may_be_hidden(self, bert):
        row = row_of("영화는 zzz 좋았다", bert)

        assert tokens(row.input_ids, bert)[3] == "[UNK]"
        assert row.labels.tolist() == [
            IGNORE if bert.is_control(token) else token for token in row.input_ids.tolist()
        ]
        assert row.n_learned == 4

    def test_that_is_too_long_loses_its_end_and_keeps_its_closing_token(self, bert):
        row = row_of("영화는 정말 좋았다 !", bert, max_length=5)

        assert tokens(row.input_ids, bert) == ["[CLS]", "영화", "##는", "정말", "[SEP]"]
        assert row.n_cut == 3

    def test_takes_a_mask_token_that_is_typed_in_data_as_text(self, bert):
        row = row_of("a [MASK] film", bert)

        assert bert.mask_id not in row.input_ids

    def test_joins_a_list_of_sentences(self, bert):
        listed, joined = encode(TASK, [{"text": ["a film", "good"]}, {"text": "a film good"}], bert)

        assert listed.input_ids.tolist() == joined.input_ids.tolist()

    @pytest.mark.parametrize("text", ["", "   ", "zzz", "[MASK]zzz"])
    def test_with_nothing_to_hide_is_left_out_of_what_is_learned_and_measured(self, text, bert):
        rows = encode(TASK, [{"text": "a film"}, {"text": text}, {"text": "good"}], bert)

        assert [row.n_learned > 0 for row in rows] == [True, False, True]
        assert len(TASK.collator.feed(rows, bert)) == 2
        assert len(TASK.collator.measured(rows, bert)) == 2

    def test_needs_a_tokenizer_with_a_mask_token(self, toy):
        with pytest.raises(TokenizerError, match=r"has no mask token.*with_special"):
            row_of("a", toy)


class TestHiding:
    @staticmethod
    def rates(before, ids, labels, mask_id):
        """Return the share hidden, and of that the shares masked, replaced and kept."""
        hidden = labels != IGNORE
        masked, kept = hidden & (ids == mask_id), hidden & (ids == before)
        shares = [masked.sum(), (hidden & ~masked & ~kept).sum(), kept.sum()]
        return [hidden.sum() / (before >= len(CONTROL)).sum(), *np.array(shares) / hidden.sum()]

    @staticmethod
    def theirs(hf, **options):
        """Return transformers' collator; it warns that whole words are never replaced."""
        from transformers import DataCollatorForLanguageModeling

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return DataCollatorForLanguageModeling(
                hf, return_tensors="np", seed=3, mlm_probability=0.15, **options
            )

    def test_happens_at_the_rates_of_transformers(self, rows, bert, hf):
        before = np.stack([row.input_ids for row in rows])
        theirs = self.theirs(hf)(
            [
                {"input_ids": row.input_ids, "special_tokens_mask": (row.labels == IGNORE) * 1}
                for row in rows
            ]
        )
        feed = MaskedCollator().feed(rows, bert)
        drawn = [feed.draw(index, seeded(7, index)) for index in range(len(rows))]
        ours = MaskedCollator().collate(drawn, pad_id=0)
        found = self.rates(before, ours["input_ids"], ours["labels"], bert.mask_id)
        wanted = self.rates(before, theirs["input_ids"], theirs["labels"], bert.mask_id)

        # Of 150,000 hidden tokens a share of a tenth varies by 0.0008, and with it goes the one
        # chance in V that a random token is the old one, or (theirs only) a control token.
        assert found[0] == pytest.approx(0.15, abs=2e-3)
        assert found[0] == pytest.approx(wanted[0], abs=3e-3)
        assert found[1:] == pytest.approx([0.8, 0.1 - 0.1 / 12, 0.1 + 0.1 / 12], abs=4e-3)
        assert wanted[1] == pytest.approx(0.8 + 0.1 / 17, abs=4e-3)
        assert found[1] == pytest.approx(wanted[1] - 0.1 / 17, abs=6e-3)

    def test_of_whole_words_happens_at_the_rate_of_transformers(self, bert, hf):
        """Its collator wants rows of one length, so every pair of tokens is one word or two."""
        pairs = ["영화는", "영화가", "좋았다", "films", "정말 a", "good good"]
        texts = [" ".join(seeded(2, n).choice(pairs, size=40)) for n in range(1_500)]
        collator = MaskedCollator(whole_word=True)
        rows = encode(TASK.evolve(collator=collator), [{"text": text} for text in texts], bert)
        options = {"return_special_tokens_mask": True, "return_offsets_mapping": True}
        theirs = self.theirs(hf, whole_word_mask=True)(
            [dict(hf(text, **options)) for text in texts]
        )["labels"]
        feed = collator.feed(rows, bert)
        ours = np.stack([feed.draw(n, seeded(n)).labels for n in range(len(rows))])
        words = Words(bert)

        for labels in (ours, theirs):
            assert (labels[:, 1:-1] != IGNORE).mean() == pytest.approx(0.15, abs=4e-3)
            for row, hidden in zip(rows, labels[:, 1:-1] != IGNORE, strict=True):
                within = row.labels != IGNORE
                word = words.number(row.input_ids, within)
                assert len(np.unique(word[hidden])) + len(np.unique(word[~hidden])) == word[-1] + 1

    def test_never_takes_a_control_token_nor_puts_one_in(self, rows, bert):
        feed = MaskedCollator(mlm_probability=1.0).feed(rows[:200], bert)

        for index in range(200):
            row = feed.draw(index, seeded(index))

            assert row.input_ids[[0, -1]].tolist() == [2, 3]
            assert row.labels[[0, -1]].tolist() == [IGNORE, IGNORE]
            assert set(row.input_ids[1:-1]) <= {bert.mask_id, *bert.plain_ids}

    def test_labels_hidden_tokens_with_themselves_and_nothing_else(self, rows, bert):
        feed = MaskedCollator().feed(rows[:100], bert)

        for index in range(100):
            row, old = feed.draw(index, seeded(index)), rows[index]
            hidden = row.labels != IGNORE

            assert (row.labels[hidden] == old.input_ids[hidden]).all()
            assert (row.input_ids[~hidden] == old.input_ids[~hidden]).all()

    @pytest.mark.parametrize("whole_word", [False, True])
    def test_happens_at_the_same_rate_in_short_rows(self, whole_word, bert):
        """One in each row would be a share of a third here."""
        row = row_of("영화 정말 good", bert)
        feed = MaskedCollator(whole_word=whole_word).feed([row], bert)
        hidden = sum(feed.draw(0, seeded(seed)).n_learned for seed in range(4_000))

        assert hidden / (4_000 * row.n_learned) == pytest.approx(0.15, abs=0.015)

    @pytest.mark.parametrize("whole_word", [False, True])
    def test_leaves_no_row_empty_that_is_measured(self, whole_word, bert):
        row = row_of("영화", bert)
        collator = MaskedCollator(mlm_probability=0.01, whole_word=whole_word)

        assert {row.n_learned for row in collator.measured([row] * 20, bert)} == {1}

    def test_leaves_the_row_that_it_draws_from_as_it_was(self, bert):
        row = row_of("영화는 정말 좋았다", bert)
        before = row.input_ids.tolist(), row.labels.tolist()
        MaskedCollator(mlm_probability=1.0).feed([row], bert).draw(0, seeded(0))

        assert (row.input_ids.tolist(), row.labels.tolist()) == before

    def test_differs_by_epoch_and_is_the_same_by_seed_wherever_it_is_drawn(self, rows, bert):
        def drawn(seed, epoch, order):
            feeding = TrainingRows(MaskedCollator().feed(rows[:20], bert), seed)
            feeding.epoch = epoch
            found = {index: feeding[index].input_ids.tolist() for index in order}
            return [found[index] for index in range(20)]

        first = drawn(1, 0, range(20))

        assert drawn(1, 0, reversed(range(20))) == first  # another process's order, or a resume's
        assert drawn(1, 1, range(20)) != first
        assert drawn(2, 0, range(20)) != first

    def test_is_always_the_same_for_what_is_measured(self, rows, bert):
        collator = MaskedCollator()
        first, again = (collator.measured(rows[:20], bert) for _ in range(2))

        assert [row.labels.tolist() for row in first] == [row.labels.tolist() for row in again]
        assert all(0 < row.n_learned < 60 for row in first)


class TestWholeWords:
    @pytest.mark.parametrize("seed", range(5))
    def test_are_hidden_whole_or_not_at_all(self, seed, bert):
        row = row_of("영화는 정말 좋았다 , a films !", bert, whole_word=True)
        feed = MaskedCollator(whole_word=True, mlm_probability=0.5).feed([row], bert)
        hidden = (feed.draw(0, seeded(seed)).labels != IGNORE).tolist()
        names = tokens(row.input_ids, bert)

        for place, name in enumerate(names):
            if name.startswith("##"):
                assert hidden[place] == hidden[place - 1]
        assert not hidden[0]
        assert not hidden[-1]


class TestAPrompt:
    def test_is_framed_as_a_row_and_the_mask_token_acts_in_it(self, bert, hf):
        found = prompt_ids(TASK, {"text": "영화는 [MASK] 좋[MASK]!"}, bert)

        assert found.dtype == np.int64
        assert found.tolist() == hf("영화는 [MASK] 좋[MASK]!")["input_ids"]

    def test_lets_no_other_control_token_act(self, bert):
        found = prompt_ids(TASK, {"text": "a [SEP] [MASK] [PAD]"}, bert)

        assert (found == 3).sum() == 1
        assert 0 not in found

    def test_takes_a_template_s_own_mask_token(self, bert):
        task = TASK.evolve(formatter=lk.context("{text} [MASK]!"))

        assert tokens(prompt_ids(task, {"text": "a [MASK]"}, bert), bert)[2:4] == ["[MASK]"] * 2

    def test_without_a_mask_token_is_refused_by_its_name(self, bert):
        with pytest.raises(RecordError, match=r"record 0: there is nothing to fill: put \[MASK\]"):
            prompt_ids(TASK, {"text": "a film"}, bert)

    def test_is_never_cut(self, bert):
        task = TASK.evolve(collator=MaskedCollator(max_length=3))

        assert len(prompt_ids(task, {"text": "a film a film [MASK]"}, bert)) == 7


class TestTheCollator:
    def test_is_one(self):
        assert isinstance(MaskedCollator(), Collator)
        assert MaskedCollator().family is Family.MASKED

    @pytest.mark.parametrize("share", [0, -0.1, 1.5, "0.15", None, True])
    def test_refuses_a_share_out_of_range(self, share):
        with pytest.raises(TaskError, match=r"mlm_probability is .* above 0 and up to 1"):
            MaskedCollator(mlm_probability=share)

    def test_pads_to_its_length_when_asked(self, bert):
        collator = MaskedCollator(max_length=12, pad_to_max_length=True)
        batch = collator.collate([row_of("a film", bert)], pad_id=0)

        assert {array.shape for array in batch.values()} == {(1, 12)}
        assert batch["attention_mask"].tolist() == [[1] * 4 + [0] * 8]
        assert batch["labels"][0, 4:].tolist() == [IGNORE] * 8

    def test_is_a_part_that_json_can_name(self):
        from lmkit.saving.jsonform import from_json, to_json

        task = TASK.evolve(collator=MaskedCollator(max_length=9, whole_word=True))

        assert from_json(json.loads(json.dumps(to_json(task))), lk.Task) == task

    def test_goes_with_no_target_and_no_text_decoder(self):
        with pytest.raises(TaskError, match="cannot have a target"):
            TASK.evolve(formatter=lk.context("{a}") + lk.target("{b}"))
        with pytest.raises(TaskError, match=r"MaskedCollator makes masked rows.*TextDecoder"):
            TASK.evolve(decoder=lk.TextDecoder())
