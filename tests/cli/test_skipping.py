"""Bad rows that are skipped, and prepared rows that are there already, on the command line."""

import json

import pytest
from exported import ROWS

MODEL = "scratch:gpt2,n_layer=1,n_embd=16,n_head=2,n_positions=64"


@pytest.mark.slow
# Which a process of its own prints.
@pytest.mark.filterwarnings("ignore::lmkit.records.SkippedRows")
class TestTraining:
    @pytest.fixture
    def spoilt(self, tmp_path):
        path = tmp_path / "train.jsonl"
        lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
        path.write_text("\n".join([lines[0], "{", *lines[1:]]), "utf-8")
        return path

    @pytest.fixture
    def train(self, lmkit, tmp_path):
        def train(data, name, *options, runner=lmkit):
            fixed = ("--set", "max_steps=1", "--set", "use_cpu=true", "--set", "save_strategy=no")
            source = ("--data", data, "--output", tmp_path / name, "--model", MODEL)
            return runner("train", "qa", *source, "--tokenizer", "char:unk", *fixed, *options)

        return train

    def test_leaves_bad_rows_out_and_says_which(self, train, command, spoilt, tmp_path):
        assert train(spoilt, "refused").code == 1

        done = train(spoilt, "run", "--on-bad-row", "skip", runner=command)

        assert done.returncode == 0, done.stderr
        warned = f"warning: {spoilt}: 1 bad row is left out\n  {spoilt}:2: not valid JSON"
        assert warned in done.stderr
        listed = (tmp_path / "run" / "skipped.jsonl").read_text("utf-8").splitlines()
        assert [json.loads(line)["where"] for line in listed] == [f"{spoilt}:2"]

    def test_explains_whether_prepared_rows_were_there(self, train, spoilt, tmp_path, monkeypatch):
        monkeypatch.setenv("LMKIT_CACHE", str(tmp_path / "cache"))
        options = ("--on-bad-row", "skip", "--explain-cache")

        said = [train(spoilt, str(n), *options).err for n in range(2)]
        said.append(train(spoilt, "2", *options, "--max-length", "16").err)
        said.append(train(spoilt, "3", *options, "--no-cache").err)

        told = [text.partition(f"prepared rows of {spoilt}: ")[2] for text in said]
        assert told[0].startswith("miss: nothing was prepared before from it")
        assert told[1].startswith("hit, prepared")
        assert told[2].startswith("miss: changed since")
        assert "the collator (" in told[2]
        assert told[3].startswith("not cached, as was asked")

    def test_with_several_processes_gives_the_same_model(self, train, spoilt, tmp_path):
        for n in ("1", "2"):
            assert train(spoilt, n, "--on-bad-row", "skip", "--no-cache", "--num-proc", n).code == 0

        first, second = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("1", "2"))
        assert first == second
