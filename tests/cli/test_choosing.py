"""Labels on the command line, with a bundle that was made by hand."""

import json

import pytest
from runtime.toybundle import RECORD, RECORDS, TASK, write_bundle

import lmkit as lk


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    task = TASK.evolve(decoder=lk.LabelDecoder(labels=("긍정", "부정", "so so")))
    return write_bundle(tmp_path_factory.mktemp("choosing") / "bundle", task=task)


@pytest.fixture(scope="module")
def ask(bundle):
    return lk.load(bundle, threads=1)


class TestGenerate:
    @pytest.fixture
    def generate(self, bundle, lmkit):
        return lambda *args: lmkit("generate", bundle, *args)

    def test_prints_the_label_and_each_ones_probability(self, generate, ask):
        done = generate("--set", f"prompt={RECORD['prompt']}")

        answer = ask(RECORD)
        wanted = [f"  {label}  {share:.4f}" for label, share in answer.probabilities.items()]
        assert (done.code, done.err) == (0, "")
        assert done.out.splitlines() == [answer.value, *wanted]

    def test_has_them_in_json(self, generate, ask):
        done = generate("--set", f"prompt={RECORD['prompt']}", "--json")

        found = json.loads(done.out)
        assert found["value"] == ask(RECORD).value
        assert found["probabilities"] == pytest.approx(dict(ask(RECORD).probabilities))

    def test_has_them_in_a_file_of_answers(self, generate, ask, tmp_path):
        source = tmp_path / "records.jsonl"
        source.write_text("".join(json.dumps(record) + "\n" for record in RECORDS), "utf-8")

        done = generate("--input", source, "--output", tmp_path / "answers.jsonl")

        lines = (tmp_path / "answers.jsonl").read_text("utf-8").splitlines()
        assert done.code == 0
        for line, record in zip(lines, RECORDS, strict=True):
            found = json.loads(line)["answer"]
            assert found["probabilities"] == pytest.approx(
                dict(ask(record).probabilities), rel=1e-4
            )

    def test_refuses_what_only_drawing_minds(self, generate):
        done = generate("--set", "prompt=x", "--temperature", "0.5")

        assert done.code == 1
        assert "temperature would change nothing" in done.err


def test_the_built_in_task_is_shown_with_one_of_its_labels(lmkit):
    assert lmkit("show", "classify").out.endswith("'Yes'\n")
