"""Windows of one text, against nanoGPT's way of drawing batches, written down here by hand."""

import numpy as np
import pytest

import lmkit as lk
from lmkit.collating import Collator, Feed, Stream
from lmkit.collating.blocks import BlockCollator, Windows
from lmkit.encoding import IGNORE, Encoded, encode, prompt_ids
from lmkit.errors import RecordError, TaskError, TokenizerError
from lmkit.family import Family
from lmkit.formatting import Segment
from lmkit.testing import QUICK, check_task, sample_record
from lmkit.tokenizing import Tokenizer

DATA = np.arange(100, 150)  # a text in which every token says where it stands
TEXT = Encoded(DATA, DATA)
TASK = lk.Task(
    name="text",
    formatter=lk.context("{prompt}").when("prompt") + lk.target("{text}"),
    collator=BlockCollator(block_size=8),
    decoder=lk.TextDecoder(strip=False),
)


def nanogpt_batch(data, starts, block_size):
    """Source: karpathy/nanoGPT, train.py, get_batch."""
    x = np.stack([data[i : i + block_size] for i in starts])
    y = np.stack([data[i + 1 : i + 1 + block_size] for i in starts])
    return x, y


def through_the_head(batch):
    """Return what a causal head predicts from and what it is to predict: it shifts by one."""
    return batch["input_ids"][:, :-1], batch["labels"][:, 1:]


def rng(seed=0, epoch=0, index=0):
    return np.random.default_rng([seed, epoch, index])


def drawn(feed, seed=0, epoch=0):
    return [feed.draw(index, rng(seed, epoch, index)) for index in range(len(feed))]


def without_eos(tokenizer):
    return Tokenizer(tokenizer.definition)


class TestWindows:
    def test_x_and_y_are_nanogpts_through_the_heads_shift(self, toy):
        collator = BlockCollator(block_size=8)
        rows = drawn(collator.feed([TEXT], toy))
        starts = [int(row.input_ids[0]) - 100 for row in rows]

        x, y = through_the_head(collator.collate(rows, pad_id=0))

        wanted_x, wanted_y = nanogpt_batch(DATA, starts, block_size=8)
        np.testing.assert_array_equal(x, wanted_x)
        np.testing.assert_array_equal(y, wanted_y)

    def test_the_starts_are_those_that_nanogpt_draws_from(self, toy):
        """randint(len(data) - block_size) gives each of them, and none beyond."""
        feed = BlockCollator(block_size=8).feed([TEXT], toy)

        starts = {
            int(feed.draw(0, np.random.default_rng(seed)).input_ids[0]) - 100
            for seed in range(2000)
        }

        assert starts == set(range(len(DATA) - 8))

    def test_an_epoch_predicts_about_as_many_tokens_as_the_text_has(self, toy):
        feed = BlockCollator(block_size=8).feed([TEXT], toy)

        assert len(feed) == (len(DATA) - 1) // 8
        assert sum(row.n_learned for row in drawn(feed)) == len(feed) * 8

    def test_each_epoch_has_other_windows(self, toy):
        feed = BlockCollator(block_size=8).feed([TEXT], toy)

        one, other = drawn(feed, epoch=0), drawn(feed, epoch=1)

        assert [row.input_ids[0] for row in one] != [row.input_ids[0] for row in other]

    def test_the_same_seed_and_epoch_give_the_same_windows_in_any_order(self, toy):
        """So a resumed run, or one with several loading processes, sees the same ones."""
        feed = BlockCollator(block_size=8).feed([TEXT], toy)
        forwards = drawn(feed, seed=7, epoch=2)

        backwards = [feed.draw(i, rng(7, 2, i)) for i in reversed(range(len(feed)))][::-1]

        assert [r.input_ids.tolist() for r in forwards] == [r.input_ids.tolist() for r in backwards]

    def test_a_text_shorter_than_a_window_is_one(self, toy):
        short = Encoded(DATA[:4], DATA[:4])
        feed = BlockCollator(block_size=8).feed([short], toy)

        assert [row.input_ids.tolist() for row in drawn(feed)] == [DATA[:4].tolist()]

    def test_they_are_a_feed(self):
        assert isinstance(Windows(TEXT, 8), Feed)


class TestWhatIsMeasured:
    @pytest.mark.parametrize("length", [2, 8, 9, 10, 16, 17, 18, 50])
    @pytest.mark.parametrize("block_size", [1, 8])
    def test_every_token_but_the_first_is_predicted_once(self, toy, length, block_size):
        text = Encoded(DATA[:length], DATA[:length])
        collator = BlockCollator(block_size=block_size)

        rows = collator.measured([text], toy)

        predicted = [token for row in rows for token in row.labels[1:].tolist()]
        assert predicted == DATA[1:length].tolist()
        assert sum(row.n_learned for row in rows) == length - 1

    def test_each_prediction_follows_the_token_before_it(self, toy):
        collator = BlockCollator(block_size=8)
        batch = collator.collate(collator.measured([TEXT], toy), pad_id=0)

        x, y = through_the_head(batch)

        assert (y[y != IGNORE] - x[y != IGNORE] == 1).all()

    def test_no_prediction_looks_back_on_more_than_a_block(self, toy):
        rows = BlockCollator(block_size=8).measured([TEXT], toy)

        assert max(len(row) - 1 for row in rows) == 8

    def test_it_is_always_the_same(self, toy):
        collator = BlockCollator(block_size=8)

        one, other = collator.measured([TEXT], toy), collator.measured([TEXT], toy)

        assert [row.input_ids.tolist() for row in one] == [row.input_ids.tolist() for row in other]

    def test_only_the_last_window_is_padded(self, toy):
        collator = BlockCollator(block_size=8)
        batch = collator.collate(collator.measured([TEXT], toy), pad_id=0)

        assert batch["attention_mask"].sum(axis=1).tolist() == [9, 9, 9, 9, 9, 9, 2]
        assert (batch["labels"][-1, 2:] == IGNORE).all()


class TestTheTail:
    def test_it_is_the_texts_last_part_whole(self, toy):
        """Source: karpathy/nanoGPT, data/shakespeare_char/prepare.py: data[int(n * 0.9):]."""
        learned, held_out = BlockCollator(block_size=8).hold_out([TEXT], toy, 0.1)

        assert [row.input_ids.tolist() for row in learned] == [DATA[: int(50 * 0.9)].tolist()]
        assert [row.input_ids.tolist() for row in held_out] == [DATA[int(50 * 0.9) :].tolist()]

    def test_no_window_that_is_learned_from_reaches_into_it(self, toy):
        collator = BlockCollator(block_size=8)
        learned, held_out = collator.hold_out([TEXT], toy, 0.2)
        feed = collator.feed(learned, toy)

        seen = {
            token
            for seed in range(500)
            for token in feed.draw(0, np.random.default_rng(seed)).input_ids.tolist()
        }

        assert seen == set(DATA[:40].tolist())
        assert seen.isdisjoint(held_out[0].input_ids.tolist())

    @pytest.mark.parametrize("fraction", [0.001, 0.999])
    def test_a_fraction_that_leaves_nothing_to_predict_is_refused(self, toy, fraction):
        with pytest.raises(TaskError, match=r"a text of 50 tokens into (49|0) to learn from and"):
            BlockCollator().hold_out([TEXT], toy, fraction)


class TestSeveralRecords:
    def test_they_are_one_text_with_an_eos_between_them(self, toy):
        rows = encode(TASK, [{"text": "ab"}, {"text": "다"}, {"text": "e"}], toy)

        whole = TASK.collator.measured(rows, toy)[0]

        assert toy.decode(whole.input_ids, skip_control=False) == "ab<|endoftext|>다<|endoftext|>e"
        assert whole.labels.tolist() == whole.input_ids.tolist()

    def test_one_alone_has_no_eos(self, toy):
        rows = encode(TASK, [{"text": "a\n\nb\n"}], toy)

        whole = TASK.collator.measured(rows, toy)[0]

        assert toy.decode(whole.input_ids, skip_control=False) == "a\n\nb\n"

    def test_without_an_eos_they_cannot_be_joined(self, toy):
        with pytest.raises(TokenizerError, match="2 records are joined by an EOS token"):
            BlockCollator().feed([TEXT, TEXT], without_eos(toy))

    def test_context_is_read_and_not_learned(self, toy):
        row = encode(TASK, [{"prompt": "ab", "text": "cd"}], toy)[0]

        assert toy.decode(row.input_ids) == "abcd"
        assert row.labels.tolist() == [IGNORE, IGNORE, *row.input_ids[2:].tolist()]

    def test_a_record_without_text_is_refused(self, toy):
        with pytest.raises(RecordError, match="record 1: nothing in it is learned"):
            encode(TASK, [{"text": "ab"}, {"text": ""}], toy)

    def test_a_long_record_is_not_cut(self, toy):
        row = encode(TASK, [{"text": "가나다라" * 100}], toy)[0]

        assert (len(row), row.n_cut) == (400, 0)


class TestThePrompt:
    def test_is_the_opening_as_it_stands(self, toy):
        ids = prompt_ids(TASK, {"prompt": "ROMEO:\n"}, toy)

        assert toy.decode(ids, skip_control=False) == "ROMEO:\n"

    def test_is_what_the_model_would_have_read_in_training(self, toy):
        row = encode(TASK, [{"prompt": "가 나", "text": "다"}], toy)[0]

        prompt = prompt_ids(TASK, {"prompt": "가 나"}, toy)

        assert row.input_ids[: len(prompt)].tolist() == prompt.tolist()

    @pytest.mark.parametrize("record", [{}, {"prompt": ""}, {"prompt": "\n"}])
    def test_where_there_is_none_a_line_begins(self, toy, record):
        assert toy.decode(prompt_ids(TASK, record, toy)) == "\n"

    def test_or_what_the_tokenizer_puts_before_a_text(self, toy_with_bos):
        assert prompt_ids(TASK, {}, toy_with_bos).tolist() == list(toy_with_bos.opening_ids)

    @pytest.mark.parametrize("unknown", ["error", "token"])
    def test_or_a_record_begins_where_the_tokenizer_knows_no_line_ends(self, unknown):
        tokenizer = lk.train_tokenizer(kind="char", data=[{"text": "ab"}], unknown=unknown)

        assert prompt_ids(TASK, {}, tokenizer).tolist() == [tokenizer.eos_id]

    def test_with_none_of_these_it_is_an_error(self):
        tokenizer = without_eos(lk.train_tokenizer(kind="char", data=[{"text": "ab"}]))

        with pytest.raises(RecordError, match="the prompt is empty, and the tokenizer has no"):
            prompt_ids(TASK, {}, tokenizer)


class TestTheCollator:
    def test_is_one_for_streams(self):
        assert isinstance(BlockCollator(), Collator)
        assert isinstance(BlockCollator(), Stream)
        assert not isinstance(lk.CausalCollator(), Stream)
        assert BlockCollator.family is Family.CAUSAL

    def test_a_window_has_one_token_more_than_a_block(self):
        assert BlockCollator(block_size=64).max_length == 65

    @pytest.mark.parametrize(("most", "block_size"), [(65, 64), (1024, 256), (257, 256), (2, 1)])
    def test_it_fits_itself_to_a_models_positions(self, most, block_size):
        assert BlockCollator(block_size=256).within(most, None).block_size == block_size

    def test_an_empty_block_is_refused(self):
        with pytest.raises(
            TaskError, match="block_size is 0; expected a whole number of 1 or more"
        ):
            BlockCollator(block_size=0)

    def test_learns_what_is_marked_as_learned(self, toy):
        segments = [Segment("a", learn=True), Segment("b"), Segment("c", learn=True)]

        row = BlockCollator().encode(segments, toy, delimited=False)

        assert (row.labels == IGNORE).tolist() == [False, True, False]


class TestTheBuiltInTask:
    def test_has_what_a_task_must_have(self):
        task = lk.get_task("char-lm")

        check_task(task, [sample_record(task), {"text": "나는\n\n간다."}], promises=QUICK)

    def test_draws_from_the_whole_distribution(self):
        options = lk.get_task("char-lm").generation

        assert (options.temperature, options.top_k, options.top_p) == (1.0, 0, 1.0)

    def test_keeps_white_space_in_what_it_writes(self):
        assert lk.get_task("char-lm").decoder.read("\n a \n") == "\n a \n"
