import copy

import pytest
import torch
import transformers

import lmkit as lk
from lmkit.answering import Answerer, open_answerer
from lmkit.errors import BundleError, ModelError, PromptTooLong, UnknownOption
from lmkit.train.answering import open_run

PROMPT = {"prompt": "3은 무엇인가요?"}


@pytest.fixture(scope="module")
def ask(run):
    return open_run(run)


@pytest.fixture(scope="module")
def reference(run, tokenizer):
    """Return a function: what transformers' own greedy loop writes after a record's prompt."""
    model = transformers.AutoModelForCausalLM.from_pretrained(run.path).eval()

    def write(record, count):
        ids = torch.from_numpy(lk.prompt_ids(run.task, record, tokenizer))[None]
        start = ids.shape[1]
        with torch.no_grad():
            for _ in range(count):
                step = model(input_ids=ids).logits[0, -1].argmax()
                ids = torch.cat([ids, step[None, None]], dim=1)
        return tuple(ids[0, start:].tolist())

    return write


def test_it_is_what_evaluate_and_the_command_line_ask_for(ask):
    assert isinstance(ask, Answerer)


def test_temperature_0_takes_the_likeliest_token_every_time(ask, reference, tokenizer):
    answer = ask(PROMPT, max_new_tokens=6, temperature=0)

    assert answer.token_ids == reference(PROMPT, 6)[: len(answer.token_ids)]
    assert answer.text == tokenizer.decode(answer.token_ids)


def test_an_answer_has_the_cost_and_the_reason(ask, tokenizer):
    answer = ask(PROMPT, max_new_tokens=6)

    assert answer.usage.prompt_tokens == len(lk.prompt_ids(ask.task, PROMPT, tokenizer))
    assert answer.usage.completion_tokens == len(answer.token_ids)
    assert answer.finish_reason == ("stop" if len(answer.token_ids) < 6 else "length")


def test_a_batch_answers_as_each_record_alone_in_order(ask, rows):
    """Left padding must not be seen, whatever the lengths of the neighbours."""
    records = [{"prompt": row["prompt"] * (1 + n % 3)} for n, row in enumerate(rows)]

    together = ask.batch(records, max_new_tokens=5, batch_size=4)

    assert [answer.token_ids for answer in together] == [
        ask(record, max_new_tokens=5).token_ids for record in records
    ]


def test_a_short_prompt_beside_a_long_one_keeps_its_room(ask):
    long = {"prompt": "가" * 84}

    beside = ask.batch([PROMPT, long], max_new_tokens=40)

    assert beside[0] == ask(PROMPT, max_new_tokens=40)
    assert beside[1] == ask(long, max_new_tokens=40)


def test_no_records_have_no_answers(ask):
    assert ask.batch([]) == []


def test_a_stream_is_the_answer_in_pieces(ask):
    assert "".join(ask.stream(PROMPT, max_new_tokens=8)) == ask(PROMPT, max_new_tokens=8).text


def test_what_a_stream_returns_is_the_whole_answer(ask):
    def whole():
        found.append((yield from ask.stream(PROMPT, max_new_tokens=8)))

    found = []
    list(whole())

    assert found == [ask(PROMPT, max_new_tokens=8)]


def test_a_stream_that_nobody_reads_on_stops_the_model(ask, monkeypatch):
    steps = []
    forward = ask.model.forward
    monkeypatch.setattr(
        ask.model, "forward", lambda *args, **given: (steps.append(1), forward(*args, **given))[1]
    )

    stream = ask.stream(PROMPT, max_new_tokens=70, min_new_tokens=70)
    next(stream)
    stream.close()
    taken = len(steps)

    assert taken < 70
    assert ask(PROMPT, max_new_tokens=8) == ask(PROMPT, max_new_tokens=8)
    assert len(steps) <= taken + 16


def test_a_failure_while_streaming_reaches_the_reader(ask, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(ask.model, "generate", fail)

    with pytest.raises(RuntimeError, match="out of memory"):
        list(ask.stream(PROMPT))


def test_a_seed_makes_draws_repeatable(ask):
    drawn = {"max_new_tokens": 12, "temperature": 1.0}

    assert ask(PROMPT, seed=1, **drawn) == ask(PROMPT, seed=1, **drawn)
    assert ask(PROMPT, seed=1, **drawn) != ask(PROMPT, seed=2, **drawn)


def test_a_seed_leaves_the_callers_random_state_alone(ask):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)

    ask(PROMPT, seed=1, temperature=1.0, max_new_tokens=2)

    assert torch.equal(torch.rand(1), expected)


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(ask):
    whole = ask(PROMPT, max_new_tokens=8).text
    stop = whole.strip()[0]

    answer = ask(PROMPT, max_new_tokens=8, stop=[stop])

    assert answer.text == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"
    assert "".join(ask.stream(PROMPT, max_new_tokens=8, stop=[stop])) == answer.text


def test_a_stop_string_ends_the_work_as_well(ask, monkeypatch):
    stop = ask(PROMPT, max_new_tokens=8).text.strip()[0]
    lengths = []
    generate = ask.model.generate

    def note(**options):
        found = generate(**options)
        lengths.append(found.shape[1] - options["input_ids"].shape[1])
        return found

    monkeypatch.setattr(ask.model, "generate", note)
    answer = ask(PROMPT, max_new_tokens=40, min_new_tokens=40, stop=[stop])

    assert lengths == [answer.usage.completion_tokens]
    assert lengths[0] < 40


SEARCH = {"num_beams": 3, "max_new_tokens": 10, "min_new_tokens": 9, "length_penalty": 0.5}


class TestBeams:
    def test_they_are_generates_own(self, ask):
        given = ask.prompt(PROMPT)

        answer = ask(PROMPT, early_stopping=True, no_repeat_ngram_size=2, **SEARCH)

        found = ask.model.generate(
            torch.tensor(given)[None],
            attention_mask=torch.ones(1, len(given), dtype=torch.int64),
            do_sample=False,
            early_stopping=True,
            no_repeat_ngram_size=2,
            **SEARCH,
        )
        assert list(answer.token_ids) == found[0, len(given) :].tolist()
        assert answer.token_ids != ask(PROMPT, max_new_tokens=10).token_ids

    def test_several_prompts_are_answered_as_each_alone(self, ask):
        records = [PROMPT, {"prompt": "가나다라마바사"}, {"prompt": "x"}]

        assert ask.batch(records, **SEARCH) == [ask(one, **SEARCH) for one in records]

    def test_a_stop_string_ends_a_beam(self, ask):
        whole = ask(PROMPT, **SEARCH).text
        stop = whole.strip()[0]

        answer = ask(PROMPT, stop=[stop], **SEARCH)

        assert stop in whole
        assert stop not in answer.text

    def test_the_text_of_a_stream_comes_once(self, ask):
        assert list(ask.stream(PROMPT, **SEARCH)) == [ask(PROMPT, **SEARCH).text]

    def test_the_last_token_can_be_forced(self, ask):
        answer = ask(PROMPT, forced_eos_token_id=9, **SEARCH)

        assert answer.token_ids[-1] == 9


def test_what_the_models_own_file_says_of_generation_does_not_leak_in(ask, monkeypatch):
    """Released models come with a repetition penalty or a temperature that nobody asked for here."""
    before = ask(PROMPT, max_new_tokens=12)
    config = copy.deepcopy(ask.model.generation_config)
    config.update(
        repetition_penalty=9.0, no_repeat_ngram_size=1, suppress_tokens=[*before.token_ids]
    )
    monkeypatch.setattr(ask.model, "generation_config", config)

    assert ask(PROMPT, max_new_tokens=12) == before
    assert ask.model.generation_config is config


def test_the_answer_ends_at_the_context(ask):
    record = {"prompt": "가" * 80}
    room = 96 - ask(record, max_new_tokens=1).usage.prompt_tokens

    answer = ask(record, max_new_tokens=500, min_new_tokens=room)

    assert len(answer.token_ids) == room
    assert answer.finish_reason == "length"


def test_a_prompt_that_fills_the_context_is_refused_with_both_lengths(ask):
    with pytest.raises(PromptTooLong, match="has 208 tokens and the model's context holds 96"):
        ask({"prompt": "가" * 200})


def test_an_unknown_option_is_refused_with_the_near_name(ask):
    with pytest.raises(UnknownOption, match="close to: temperature"):
        ask(PROMPT, temprature=0.3)


def test_a_record_without_the_column_says_which(ask):
    with pytest.raises(lk.LmkitError, match="column 'prompt' is missing; the record has q"):
        ask({"q": "?"})


class TestOpening:
    def test_a_run_is_opened_from_its_value_or_its_path(self, run):
        assert open_answerer(run).task == open_answerer(str(run.path)).task == run.task

    def test_what_is_open_is_itself(self, ask):
        assert open_answerer(ask) is ask

    def test_a_checkpoint_is_a_run_itself(self, run):
        answer = open_answerer(run.path / "checkpoint-2")(PROMPT, max_new_tokens=1)

        assert answer.usage.completion_tokens == 1

    def test_a_place_where_nothing_is_says_so(self, tmp_path):
        with pytest.raises(ModelError, match="there is no run or bundle"):
            open_answerer(tmp_path / "gone")

    def test_a_folder_that_is_neither_says_what_it_lacks(self, tmp_path):
        with pytest.raises(BundleError, match=r"no task\.json.*no lmkit\.json"):
            open_answerer(tmp_path)
