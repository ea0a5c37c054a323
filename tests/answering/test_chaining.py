"""Chains of bundles that are made by hand; nothing here needs torch."""

import importlib
import json
import subprocess
import sys

import pytest
from runtime.toybundle import RECORD, TASK, write_bundle

import lmkit as lk
from lmkit.answering.chaining import ChainAnswer
from lmkit.errors import ChainError, PromptTooLong, RecordError, TaskError, UnknownTask

FACTS = TASK.evolve(
    name="judge",
    formatter=lk.context("{law}: {facts}\n") + lk.target("{verdict}"),
)
CHAT = TASK.evolve(name="talk", formatter=lk.Chat(template="chatml"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return three bundles' folders: the first says `네!` to `RECORD`, the others some noise."""
    place = tmp_path_factory.mktemp("chain")
    return {
        "first": write_bundle(place / "first", says=" 네!"),
        "second": write_bundle(place / "second"),
    }


@pytest.fixture(scope="module")
def models(folders):
    return {name: lk.load(folder, threads=1) for name, folder in folders.items()}


class Scripted:
    """A model that is open: it answers with its task's name and the prompt's text, or fails."""

    def __init__(self, task, fails=None):
        self.task, self.tokenizer, self._fails = task, None, fails
        self.seen = []

    def prompt(self, record, index=0):
        return record

    def with_task(self, task): ...
    def log_probs(self, rows): ...
    def score(self, rows): ...

    def __call__(self, record, **options):
        return self.batch([record], **options)[0]

    def stream(self, record, **options):
        yield from self(record, **options).text

    def batch(self, records, *, batch_size=8, **options):
        if self._fails is not None:
            raise self._fails
        self.seen += [(dict(record), options) for record in records]
        return [self._answer(record) for record in records]

    def _answer(self, record):
        text = "".join(segment.text for segment in self.task.formatter.prompt(record))
        said = f" {self.task.name}({text.strip()})"
        usage = importlib.import_module("lmkit.decoding").Usage(
            prompt_tokens=1, completion_tokens=1
        )
        return lk.Answer(value=said.strip(), text=said, finish_reason="stop", usage=usage)


def scripted(name, template="{prompt}", **options):
    task = TASK.evolve(name=name, formatter=lk.context(template) + lk.target("{x}"))
    return Scripted(task, **options)


class TestAChainOfBundles:
    def test_hands_each_answer_on(self, models):
        answer = lk.chain(models["first"], models["second"])(RECORD)

        assert [step.value for step in answer.steps] == [
            "네!",
            models["second"]({"prompt": "네!"}).value,
        ]
        assert (answer.value, answer.token_ids) == (
            answer.steps[1].value,
            answer.steps[1].token_ids,
        )
        assert isinstance(answer, ChainAnswer)
        assert isinstance(answer, lk.Answer)

    def test_opens_bundles_from_their_folders(self, folders, models):
        opened = lk.chain(str(folders["first"]), folders["second"])

        assert opened(RECORD) == lk.chain(models["first"], models["second"])(RECORD)

    def test_answers_several_records_as_it_does_each(self, models):
        chained = lk.chain(models["first"], models["second"])
        records = [RECORD, {"prompt": "둘"}, {"prompt": "three"}]

        assert chained.batch(records, batch_size=2) == [chained(record) for record in records]

    def test_streams_the_last_link(self, models):
        chained = lk.chain(models["first"], models["second"])

        pieces = list(chained.stream(RECORD))

        assert "".join(pieces) == chained(RECORD).text
        assert len(pieces) > 1

    def test_gives_options_to_links_that_write_and_not_to_labels(self):
        first = scripted("first")
        labels = TASK.evolve(name="labels", decoder=lk.LabelDecoder(labels=("a", "b")))
        second = Scripted(labels)

        lk.chain(first, second).batch([{"prompt": "하나"}], max_new_tokens=3, batch_size=2)
        lk.chain(second, second).batch([{"prompt": "하나"}], max_new_tokens=3)

        assert first.seen[0][1] == {"max_new_tokens": 3}
        assert [options for _, options in second.seen[:2]] == [{}, {"max_new_tokens": 3}]

    def test_gives_options_to_every_link(self, models):
        answer = lk.chain(models["first"], models["second"])(RECORD, max_new_tokens=2)

        assert [step.usage.completion_tokens for step in answer.steps] == [2, 2]

    def test_imports_no_torch(self, folders):
        script = (
            "import sys, lmkit as lk\n"
            "ask = lk.chain(*sys.argv[1:])\n"
            f"ask({RECORD!r}, max_new_tokens=2)\n"
            "print([n for n in ('torch', 'transformers', 'datasets') if n in sys.modules])\n"
        )
        command = [sys.executable, "-c", script, *map(str, folders.values())]
        done = subprocess.run(command, capture_output=True, text=True, check=True)

        assert done.stdout.strip() == "[]"


class TestTheColumn:
    def test_is_the_only_one_of_the_next_prompt_even_if_the_record_has_it(self):
        chained = lk.chain(scripted("a"), scripted("b"))

        assert chained({"prompt": "x"}).value == "b(a(x))"

    def test_is_the_one_that_the_record_lacks(self):
        judge = scripted("judge", "{law}: {facts}")

        answer = lk.chain(scripted("sum"), judge)({"prompt": "x", "law": "L"})

        assert answer.value == "judge(L: sum(x))"

    def test_that_is_not_clear_is_asked_for_by_name(self):
        chained = lk.chain(scripted("sum"), scripted("judge", "{law}: {facts}"))

        with pytest.raises(TaskError) as caught:
            chained({"prompt": "x"})

        assert str(caught.value) == (
            "link 2 of the chain ('judge') reads law, facts, which the record does not have, so it "
            "is not clear which one the answer before is for; say which with columns=, as in "
            "chain(..., columns=('law',)) (--into)"
        )
        with pytest.raises(TaskError, match="the record has them all"):
            chained({"prompt": "x", "law": "L", "facts": "F"})

    def test_that_the_prompt_can_do_without_is_not_the_one(self):
        judge = scripted("judge", "{facts}")
        judge.task = judge.task.evolve(
            formatter=lk.context("{law}: ").when("law") + judge.task.formatter
        )

        assert lk.chain(scripted("sum"), judge)({"prompt": "x"}).value == "judge(sum(x))"

    def test_can_be_said(self):
        judge = scripted("judge", "{law}: {facts}")

        answer = lk.chain(scripted("sum"), judge, columns=("facts",))(
            {"prompt": "x", "law": "L", "facts": "F"}
        )

        assert answer.value == "judge(L: sum(x))"

    def test_of_an_earlier_link_stays_there_for_later_ones(self):
        links = scripted("a"), scripted("b", "{facts}"), scripted("c", "{prompt}{facts}{note}")

        answer = lk.chain(*links)({"prompt": "x"})

        assert answer.value == "c(xa(x)b(a(x)))"
        assert [step.value for step in answer.steps] == ["a(x)", "b(a(x))", answer.value]

    def test_of_a_chat_is_given_one_users_turn(self):
        talk = Scripted(CHAT)
        talk._answer = lambda record: scripted("t")._answer({"prompt": "!"})

        lk.chain(scripted("a"), talk)({"prompt": "x"})

        assert talk.seen[0][0]["messages"] == [{"role": "user", "content": "a(x)"}]

    def test_of_a_renamed_task_is_the_datas(self):
        renamed = Scripted(scripted("b").task.rename(question="prompt"))

        assert lk.chain(scripted("a"), renamed)({"prompt": "x"}).value == "b(a(x))"

    @pytest.mark.parametrize(
        ("columns", "said"),
        [
            (("law", "facts"), "a chain of 2 links hands on 1 answers; columns names 2"),
            (
                ("fact",),
                r"link 2 of the chain \('judge'\) has no column 'fact' in its prompt; it has law",
            ),
        ],
    )
    def test_that_cannot_be_is_refused_at_once(self, columns, said):
        with pytest.raises(TaskError, match=said):
            lk.chain(TASK, FACTS, columns=columns)


class TestALinkThatFails:
    def test_is_named_with_the_cause_and_its_text(self):
        broken = scripted("b", fails=PromptTooLong(99, 64))

        with pytest.raises(ChainError) as caught:
            lk.chain(scripted("a"), broken)({"prompt": "x"})

        assert str(caught.value).startswith(
            "link 2 of the chain ('b') fails with PromptTooLong: the prompt has 99 tokens"
        )
        assert caught.value.position == 1
        assert isinstance(caught.value.cause, PromptTooLong)
        assert caught.value.__cause__ is caught.value.cause

    def test_is_told_with_the_record(self, models):
        with pytest.raises(
            ChainError,
            match=r"link 1 .*\('toy'\) fails with RecordError: record 1: column 'prompt' is",
        ):
            lk.chain(models["first"], models["second"]).batch([RECORD, {}])

    def test_while_it_is_streamed_too(self, models):
        long = {"prompt": "가" * 60}

        with pytest.raises(
            ChainError, match=r"link 1 of the chain \('toy'\) fails with PromptTooLong"
        ):
            list(lk.chain(models["first"], models["second"]).stream(long))

    def test_with_a_bug_keeps_the_bugs_own_kind(self):
        with pytest.raises(ZeroDivisionError) as caught:
            lk.chain(scripted("a"), scripted("b", fails=ZeroDivisionError()))({"prompt": "x"})

        assert caught.value.__notes__ == ["in link 2 of the chain ('b')"]


class TestTasksWithoutModels:
    def test_are_checked_for_their_shape_and_say_what_is_missing(self):
        shape = lk.chain("qa", "alpaca", columns=("instruction",))

        assert repr(shape) == "chain('qa' -> instruction -> 'alpaca')"
        with pytest.raises(
            TaskError, match=r"link 1 of the chain \('qa'\) is a task without a model"
        ):
            shape({"prompt": "x"})

    def test_are_bound_in_order(self, folders, models):
        bound = lk.chain(TASK, TASK).on(folders["first"], models["second"])

        assert bound(RECORD) == lk.chain(models["first"], models["second"])(RECORD)

    def test_are_bound_where_no_model_is_yet(self, models):
        bound = lk.chain(models["first"], TASK).on(models["second"])

        assert bound(RECORD) == lk.chain(models["first"], models["second"])(RECORD)

    def test_take_a_model_each(self, models):
        with pytest.raises(
            TaskError, match=r"1 models were given, .* without one are: 'toy', 'toy'"
        ):
            lk.chain(TASK, TASK).on(models["first"])

    def test_take_no_model_of_another_task(self, models):
        with pytest.raises(TaskError, match=r"link 2 .*\('qa'\) was given a model that does 'toy'"):
            lk.chain(TASK, "qa").on(models["first"], models["second"])

    def test_that_nobody_knows_are_told(self):
        with pytest.raises(UnknownTask, match="close to: alpaca"):
            lk.chain("qa", "alpcaa")


@pytest.mark.parametrize("links", [(), ("qa",)])
def test_a_chain_needs_two_links(links):
    with pytest.raises(TaskError, match="two links"):
        lk.chain(*links)


def test_a_link_that_reads_nothing_cannot_be_reached():
    deaf = TASK.evolve(name="deaf", formatter=lk.context("tell:") + lk.target("{x}"))

    with pytest.raises(TaskError, match=r"link 2 .*\('deaf'\) reads no column"):
        lk.chain(TASK, deaf)


def test_a_records_own_error_is_found_before_a_file_is_answered(models):
    """What `lmkit generate --input` asks of each record."""
    chained = lk.chain(models["first"], models["second"])

    assert chained.prompt(RECORD).tolist() == models["first"].prompt(RECORD).tolist()
    with pytest.raises(RecordError):
        chained.prompt({})


class TestOnTheCommandLine:
    @pytest.fixture
    def lmkit(self, capsys):
        from lmkit.cli.main import run

        def lmkit(*args):
            code = run([str(arg) for arg in args])
            shown = capsys.readouterr()
            return code, shown.out, shown.err

        return lmkit

    def test_it_answers(self, lmkit, folders, models):
        code, out, err = lmkit(
            "generate", "--chain", *folders.values(), "--set", f"prompt={RECORD['prompt']}"
        )

        assert (code, err) == (0, "")
        assert out.rstrip("\n") == lk.chain(models["first"], models["second"])(RECORD).value

    def test_it_shows_every_step_when_asked(self, lmkit, folders):
        asked = ("generate", "--chain", *folders.values(), "--set", f"prompt={RECORD['prompt']}")

        lines = lmkit(*asked, "--steps")[1].splitlines()
        document = json.loads(lmkit(*asked, "--json")[1])

        assert lines[0] == "네!" == document["steps"][0]["value"]
        assert document["steps"][1]["text"] == document["text"]

    def test_it_answers_a_file(self, lmkit, folders, tmp_path):
        (tmp_path / "in.jsonl").write_text(json.dumps(RECORD) + "\n", "utf-8")

        code, out, _ = lmkit(
            "generate", "--chain", *folders.values(), "--input", tmp_path / "in.jsonl"
        )

        assert code == 0
        assert json.loads(out)["answer"]["steps"][0]["value"] == "네!"

    def test_a_failure_names_the_link(self, lmkit, folders):
        code, _, err = lmkit("generate", "--chain", *folders.values(), "--set", "completion=x")

        assert code == 1
        assert "link 1 of the chain ('toy') fails with RecordError" in err

    @pytest.mark.parametrize(
        "args",
        [
            ["--chain", "a"],
            ["a", "b"],
            [],
            ["a", "--steps"],
            ["a", "--into", "x"],
            ["--chain", "a", "b", "--task", "t"],
        ],
    )
    def test_what_does_not_go_together_is_usage(self, lmkit, args):
        assert lmkit("generate", *args, "--set", "prompt=x")[0] == 2
