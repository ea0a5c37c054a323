"""Labels as answers: what is scored is what was learned, and the figures are torch's."""

import copy

import numpy as np
import pytest

import lmkit as lk
from lmkit.answering.choosing import label_rows
from lmkit.encoding import IGNORE, encode, prompt_ids
from lmkit.errors import PromptTooLong, RecordError, TaskError, TokenizerError
from lmkit.records import Row
from lmkit.testing import toy_tokenizer
from lmkit.tokenizing import Tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from lmkit.train.answering import TorchAnswerer  # noqa: E402

CONTEXT_LENGTH = 64
LABELS = ("긍정", "부정", "모르겠음")
TASK = lk.Task(
    name="reviews",
    formatter=lk.context("리뷰: {text}\n감정:") + lk.target(" {label}"),
    collator=lk.CausalCollator(max_length=CONTEXT_LENGTH),
    decoder=lk.LabelDecoder(labels=LABELS),
)
CHAT = TASK.evolve(
    formatter=lk.Chat.of(system="답하세요.", user="{text}", assistant="{label}", template="chatml")
)
RECORDS = [
    {"text": "재미있다"},
    {"text": "a long, long film that nobody needs"},
    {"text": "또 보고 싶다!"},
]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=toy_tokenizer().vocab_size,
        n_positions=CONTEXT_LENGTH,
        n_embd=16,
        n_layer=1,
        n_head=2,
        initializer_range=0.5,
    )
    return transformers.GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def ask(model):
    """Return a function that opens the model for a task."""
    return lambda task=TASK: TorchAnswerer(task=task, model=model, tokenizer=toy_tokenizer())


def by_hand(model, prompt, answer):
    """Return the log-probabilities of an answer's tokens behind a prompt, read alone."""
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        scores = model(ids).logits[0].double().log_softmax(-1)
    start = len(prompt) - 1
    return torch.tensor([scores[start + n, token] for n, token in enumerate(answer)])


def shares(model, record, normalize=False):
    tokenizer = toy_tokenizer()
    prompt = prompt_ids(TASK, record, tokenizer).tolist()
    rows = [by_hand(model, prompt, tokenizer.encode(f" {label}")) for label in LABELS]
    totals = torch.stack([row.mean() if normalize else row.sum() for row in rows])
    return dict(zip(LABELS, totals.softmax(0).tolist(), strict=True))


class TestAnAnswer:
    @pytest.mark.parametrize("normalize", [False, True])
    @pytest.mark.parametrize("record", RECORDS)
    def test_has_the_probabilities_that_torch_gives_the_labels(self, model, ask, record, normalize):
        task = TASK.evolve(decoder=lk.LabelDecoder(labels=LABELS, normalize=normalize))

        answer = ask(task)(record)

        assert answer.probabilities == pytest.approx(shares(model, record, normalize), rel=1e-4)
        assert list(answer.probabilities) == list(LABELS)

    def test_is_the_likeliest_label(self, model, ask):
        answer = ask()(RECORDS[0])
        wanted = shares(model, RECORDS[0])

        assert answer.value == answer.text == max(wanted, key=wanted.get)
        assert answer.finish_reason == "stop"

    def test_costs_the_chosen_labels_tokens(self, ask):
        answer = ask()(RECORDS[0])

        assert toy_tokenizer().decode(answer.token_ids) == f" {answer.value}"
        assert answer.usage.completion_tokens == len(f" {answer.value}")
        assert answer.usage.prompt_tokens == len("리뷰: 재미있다\n감정:")

    def test_is_the_same_in_a_batch_in_order(self, ask):
        records = [*RECORDS, *reversed(RECORDS)]

        for size in (1, 2, 100):
            together = ask().batch(records, batch_size=size)
            for answer, record in zip(together, records, strict=True):
                alone = ask()(record)
                assert answer.probabilities == pytest.approx(alone.probabilities, rel=1e-4)
                assert (answer.value, answer.usage) == (alone.value, alone.usage)

    def test_may_be_streamed_in_one_piece(self, ask):
        assert list(ask().stream(RECORDS[0])) == [ask()(RECORDS[0]).text]

    def test_of_no_records_is_none(self, ask):
        assert ask().batch([]) == []

    def test_needs_the_prompts_columns_only_and_minds_no_answer(self, ask):
        with_answer = {**RECORDS[0], "label": "nonsense"}

        assert ask()(with_answer) == ask()(RECORDS[0])

    def test_is_the_same_through_a_chat(self, model, ask):
        tokenizer = toy_tokenizer()
        prompt = prompt_ids(CHAT, RECORDS[0], tokenizer).tolist()
        rows = [by_hand(model, prompt, tokenizer.encode(label)).sum() for label in LABELS]

        answer = ask(CHAT)(RECORDS[0])

        wanted = torch.stack(rows).softmax(0).tolist()
        assert list(answer.probabilities.values()) == pytest.approx(wanted, rel=1e-4)
        assert tokenizer.decode(prompt, skip_control=False).endswith("<|im_start|>assistant\n")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft asks for it
def test_behind_a_soft_prompt_the_labels_are_scored_at_their_own_places(model):
    """peft puts the soft prompt's places before the text's, in the logits too."""
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    soft = peft.get_peft_model(copy.deepcopy(model), config).eval()
    tokenizer = toy_tokenizer()
    prompt = prompt_ids(TASK, RECORDS[0], tokenizer).tolist()
    totals = []
    for label in LABELS:
        answer = tokenizer.encode(f" {label}")
        with torch.no_grad():
            logits = soft(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].double()
        behind = logits.log_softmax(-1)[3 + len(prompt) - 1 :]
        totals.append(sum(behind[n, token] for n, token in enumerate(answer)))

    answer = TorchAnswerer(task=TASK, model=soft, tokenizer=tokenizer)(RECORDS[0])

    wanted = torch.stack(totals).softmax(0).tolist()
    assert list(answer.probabilities.values()) == pytest.approx(wanted, rel=1e-4)


class TestOneForwardPass:
    @pytest.fixture
    def texts(self, model, monkeypatch):
        """Return the texts that the model has read."""
        seen = []
        forward = model.forward

        def note(input_ids, **more):
            seen.extend(
                row[mask == 1] for row, mask in zip(input_ids, more["attention_mask"], strict=True)
            )
            return forward(input_ids=input_ids, **more)

        monkeypatch.setattr(model, "forward", note)
        return seen

    def test_serves_all_labels_of_one_token(self, ask, texts):
        ask(TASK.evolve(decoder=lk.LabelDecoder(labels=("예", "네", "음"))))(RECORDS[0])

        assert len(texts) == 1

    def test_serves_a_label_that_another_one_begins_with(self, ask, texts):
        ask(TASK.evolve(decoder=lk.LabelDecoder(labels=("네", "네네", "네네네"))))(RECORDS[0])

        assert len(texts) == 1

    def test_is_as_long_as_it_must_be(self, ask, texts):
        ask()(RECORDS[0])

        n_prompt = len("리뷰: 재미있다\n감정:")
        assert sorted(len(text) for text in texts) == [n_prompt + 2, n_prompt + 2, n_prompt + 4]


class TestRows:
    @pytest.mark.parametrize("task", [TASK, CHAT], ids=["template", "chat"])
    @pytest.mark.parametrize("name", ["gpt2", "qwen2", "smollm2", "t5", "bert-base-uncased"])
    def test_are_what_training_learns_but_for_the_end(self, load_shared, task, name):
        tokenizer = load_shared(name)
        task = task.evolve(
            decoder=lk.LabelDecoder(labels=("Yes", "No", "I do not know")),
            collator=lk.CausalCollator(max_length=512),
        )
        for record in RECORDS:
            prompt = prompt_ids(task, record, tokenizer)
            rows = label_rows(task, record, prompt, tokenizer)
            for label, row in zip(task.decoder.labels, rows, strict=True):
                whole = encode(task, [{**record, "label": label}], tokenizer)[0]
                n = len(row)
                assert row.input_ids.tolist() == whole.input_ids[:n].tolist()
                assert row.labels.tolist() == whole.labels[:n].tolist()
                assert tokenizer.ends_turn(int(whole.input_ids[n]))

    def test_are_not_cut_where_training_rows_are(self):
        task = TASK.evolve(collator=lk.CausalCollator(max_length=8))
        prompt = prompt_ids(task, RECORDS[1], toy_tokenizer())

        row = label_rows(task, RECORDS[1], prompt, toy_tokenizer())[0]

        assert row.input_ids[: len(prompt)].tolist() == prompt.tolist()
        assert row.n_learned == len(" 긍정")

    def test_leave_out_what_a_chat_template_writes_behind_the_answer(self):
        prompt = prompt_ids(CHAT, RECORDS[0], toy_tokenizer())

        row = label_rows(CHAT, RECORDS[0], prompt, toy_tokenizer())[0]

        assert toy_tokenizer().decode(row.labels[row.labels != IGNORE].tolist()) == "긍정"
        assert row.input_ids[-1] == row.labels[-1]

    def test_leave_the_prompt_unscored_in_a_chat_that_learns_all_of_it(self):
        chat = lk.Chat.of(user="{text}", assistant="{label}", template="chatml", learn="all")
        task = CHAT.evolve(formatter=chat)
        prompt = prompt_ids(task, RECORDS[0], toy_tokenizer())

        row = label_rows(task, RECORDS[0], prompt, toy_tokenizer())[0]

        assert set(row.labels[: len(prompt)]) == {IGNORE}
        assert toy_tokenizer().decode(row.labels[len(prompt) :].tolist()) == "긍정"

    def test_hold_the_targets_own_words_too(self):
        task = TASK.evolve(formatter=lk.context("{text}\n") + lk.target("답은 {label}이다."))
        prompt = prompt_ids(task, RECORDS[0], toy_tokenizer())

        row = label_rows(task, RECORDS[0], prompt, toy_tokenizer())[1]

        assert toy_tokenizer().decode(row.input_ids[len(prompt) :].tolist()) == "답은 부정이다."


class TestBadLabels:
    def test_a_label_that_is_no_token_is_named(self, model):
        """A BPE without an unknown token leaves out what it does not know, and says nothing."""
        from tokenizers import Tokenizer as Backend
        from tokenizers import models

        letters = {letter: index for index, letter in enumerate("abc =\n<|>")}
        tokenizer = Tokenizer(
            Backend(models.BPE(letters, [])).to_str(),
            special={"eos_token": "\n", "pad_token": "\n"},
        )
        task = TASK.evolve(
            formatter=lk.context("{text}=") + lk.target(" {label}"),
            decoder=lk.LabelDecoder(labels=("a", "부정")),
        )
        ask = TorchAnswerer(task=task, model=model, tokenizer=tokenizer)

        with pytest.raises(
            TokenizerError, match="the label '부정' of task 'reviews' is not a single"
        ):
            ask({"text": "abc"})

    def test_labels_that_the_tokenizer_knows_none_of_are_named(self, ask):
        task = TASK.evolve(decoder=lk.LabelDecoder(labels=("네", "ä", "ö")))

        with pytest.raises(TokenizerError, match=r"the labels 'ä' and 'ö' .* are the same tokens"):
            ask(task)(RECORDS[0])

    def test_training_and_export_tell_before_any_work(self, model, tmp_path):
        task = TASK.evolve(decoder=lk.LabelDecoder(labels=("긍정", "ä", "ö")))
        rows = [{**RECORDS[0], "label": "긍정"}]
        same = "the labels 'ä' and 'ö'"

        with pytest.raises(TokenizerError, match=same):
            lk.train(
                task, model=model, tokenizer=toy_tokenizer(), data=rows, output=tmp_path / "run"
            )
        with pytest.raises(TokenizerError, match=same):
            lk.export(model, task=task, tokenizer=toy_tokenizer(), output=tmp_path / "bundle")
        assert list(tmp_path.iterdir()) == []

    def test_a_task_without_one_column_for_them_is_refused(self):
        with pytest.raises(TaskError, match=r"no column stands in the answer alone, .*Chat\.of"):
            TASK.evolve(formatter=lk.Chat())
        with pytest.raises(TaskError, match="a, b stand in the answer alone"):
            TASK.evolve(formatter=lk.context("{text}") + lk.target("{a}{b}"))

    def test_an_answer_that_is_none_of_them_is_refused_with_its_row(self, ask):
        rows = [{**RECORDS[0], "label": "긍정"}, {**RECORDS[1], "label": "positive"}]

        with pytest.raises(RecordError, match=r"record 1: the answer is 'positive'; expected"):
            lk.encode(TASK, rows, toy_tokenizer())
        with pytest.raises(RecordError, match=r"the answer is 'positive'; expected"):
            lk.evaluate(ask(), data=rows)


class TestARequest:
    @pytest.mark.parametrize("how", ["__call__", "stream", "batch"])
    def test_with_an_option_of_generation_is_refused(self, ask, how):
        asked = [RECORDS[0]] if how == "batch" else RECORDS[0]

        with pytest.raises(
            TaskError, match=r"scores its labels .* temperature, top_k would change"
        ):
            getattr(ask(), how)(asked, top_k=3, temperature=0.5)

    def test_whose_prompt_is_too_long_is_refused(self, ask):
        with pytest.raises(PromptTooLong, match=r"^record 0: the prompt has 108 tokens"):
            ask()({"text": "가" * 100})

    def test_whose_longest_label_does_not_fit_is_refused(self, ask):
        fits = {"text": "가" * (CONTEXT_LENGTH - len("리뷰: \n감정: 모르겠음"))}

        assert ask()(fits).probabilities
        longer = Row({"text": fits["text"] + "가"}, "reviews.jsonl:7")
        with pytest.raises(
            PromptTooLong, match=r"^reviews\.jsonl:7: .* of which 5 are for the answer"
        ):
            ask().batch([fits, longer])

    def test_for_a_batch_of_none_is_refused(self, ask):
        with pytest.raises(TaskError, match="batch_size is 0"):
            ask().batch(RECORDS, batch_size=0)


def test_evaluating_measures_the_labels_that_were_chosen(ask):
    task = TASK.evolve(metrics=[lk.ExactMatch()])
    answers = ask(task).batch(RECORDS)
    wrong = next(label for label in LABELS if label != answers[2].value)
    labels = [answers[0].value, answers[1].value, wrong]
    rows = [{**record, "label": label} for record, label in zip(RECORDS, labels, strict=True)]

    figures = lk.evaluate(ask(task), data=rows)

    assert figures["exact_match"] == pytest.approx(2 / 3)
    assert figures["tokens"] == sum(len(label) + 2 for label in labels)


def test_scores_are_the_rows_losses(ask):
    """The same rows, through the model's own loss and token by token."""
    rows = encode(TASK, [{**r, "label": "모르겠음"} for r in RECORDS], toy_tokenizer())

    found = ask().log_probs(rows)

    assert [len(row) for row in found] == [len(" 모르겠음") + 1] * 3
    assert -sum(row.sum() for row in found) == pytest.approx(ask().score(rows).total, rel=1e-5)
    assert all(row.dtype == np.float64 for row in found)
