"""Which rows are shown, of which data, and with which tokenizer."""

import json
import subprocess
import sys

import pytest

import lmkit as lk
from lmkit.errors import LmkitError, MissingExtra, TaskError, TokenizerError
from lmkit.previewing.models import positions

ROWS = [{"prompt": f"질문 {n}" + "?" * n, "completion": "답"} for n in range(6)]
FORGETS = (  # an assistant's earlier thought is not written again, as in Qwen 3
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}{{ m.content }}"
    "{% elif m.role == 'assistant' %}{{ m.content.split('/')[-1] }}{% else %}{{ m.content }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def texts(shown, kind):
    return "".join(token.text for token in shown.tokens if token.kind == kind)


class TestTheRowsShown:
    def test_are_the_first_the_longest_and_the_shortest(self, toy):
        shown = lk.preview("qa", data=ROWS, tokenizer=toy, rows=1).shown

        assert {row.index: row.why for row in shown} == {0: "first, shortest", 5: "longest"}

    def test_are_those_that_were_chosen(self, toy):
        shown = lk.preview("qa", data=ROWS, tokenizer=toy, rows=0, choose=[3]).shown

        assert {row.index: row.why for row in shown} == {3: "chosen", 5: "longest", 0: "shortest"}

    def test_are_there_or_refused(self, toy):
        with pytest.raises(LmkitError, match="there is no row 6; the rows are 0 to 5"):
            lk.preview("qa", data=ROWS, tokenizer=toy, choose=[6])

    def test_have_the_place_of_their_record(self, toy, tmp_path):
        file = tmp_path / "a.jsonl"
        file.write_text("".join(f"\n{json.dumps(row)}\n" for row in ROWS))
        shown = lk.preview("qa", data=file, tokenizer=toy, rows=0, choose=[4]).shown

        assert shown[0].where == f"{file}:10"

    def test_keep_what_was_cut_off(self, toy):
        task = lk.get_task("qa").evolve(collator=lk.CausalCollator(max_length=8))
        (shown, *_) = lk.preview(task, data=ROWS, tokenizer=toy, rows=1).shown

        assert texts(shown, "cut") + texts(shown, "read") == "질문: 질문 0\n답변:"
        assert texts(shown, "learned") == " 답<|endoftext|>"
        assert (shown.n_tokens, shown.n_cut, shown.n_learned) == (8, 7, 3)

    def test_are_each_of_the_texts_that_a_record_becomes(self, toy):
        task = lk.get_task("chat").evolve(formatter=lk.Chat(template=FORGETS))
        talk = [("user", "가"), ("assistant", "음/나"), ("user", "다"), ("assistant", "흠/라")]
        data = [{"messages": [{"role": role, "content": said} for role, said in talk]}]
        preview = lk.preview(task, data=data, tokenizer=toy, rows=2)

        assert preview.totals.rows == 2
        assert [texts(shown, "learned") for shown in preview.shown] == [
            "음/나<|im_end|>",
            "흠/라<|im_end|>",
        ]
        assert preview.worst is None

    def test_of_one_text_are_its_windows(self, toy, tmp_path):
        file = tmp_path / "text.txt"
        file.write_text("abcdefghij" * 10)
        task = lk.get_task("char-lm").evolve(collator=lk.BlockCollator(block_size=30))
        preview = lk.preview(task, data=file, tokenizer=toy, rows=1)

        assert (preview.totals.records, preview.totals.rows) == (1, 4)
        assert "".join(t.text for t in preview.shown[0].tokens) == ("abcdefghij" * 4)[:31]
        assert preview.shown[0].where == f"{file}, window 0"


class TestTheData:
    def test_may_be_looked_at_in_part(self, toy):
        assert lk.preview("qa", data=ROWS, tokenizer=toy, limit=4).totals.records == 4

    def test_is_as_the_tasks_transforms_leave_it(self, toy):
        task = lk.get_task("qa").where(lambda row: row["prompt"].endswith("?"))
        preview = lk.preview(
            task.map(lambda row: {**row, "completion": "네"}), data=ROWS, tokenizer=toy
        )

        assert (preview.totals.records, preview.totals.rows) == (6, 5)
        assert texts(preview.shown[0], "learned") == " 네<|endoftext|>"
        assert preview.shown[0].where == "rows:1"

    def test_is_of_one_task(self, toy):
        with pytest.raises(TaskError, match="is a mixture"):
            lk.preview(lk.mix({"qa": 1, "alpaca": 1}), data=ROWS, tokenizer=toy)

    def test_tells_how_far_it_is(self, toy):
        told = []
        lk.preview("qa", data=ROWS * 50, tokenizer=toy, on_progress=lambda *at: told.append(at))

        assert told[-1] == (256, 300)


class TestTheTokenizer:
    def test_ends_turns_as_training_makes_it(self, load_shared):
        """Qwen's own EOS is another token than the one with which its template ends a turn."""
        data = [
            {
                "messages": [
                    {"role": "user", "content": "가"},
                    {"role": "assistant", "content": "나"},
                ]
            }
        ]
        preview = lk.preview("chat", data=data, tokenizer=load_shared("qwen2"))

        assert texts(preview.shown[0], "learned") == "나<|im_end|>"
        assert preview.worst is None

    def test_is_needed(self):
        with pytest.raises(TokenizerError, match="a preview needs a tokenizer"):
            lk.preview("qa", data=ROWS)

    def test_and_nothing_heavy(self, toy, tmp_path):
        toy.save(tmp_path)
        script = (
            "import sys\n"
            "for n in ('torch', 'transformers', 'datasets', 'pyarrow'): sys.modules[n] = None\n"
            "import lmkit\n"
            "rows = [{'prompt': 'a', 'completion': 'b'}]\n"
            f"found = lmkit.preview('qa', data=rows, model={str(tmp_path)!r})\n"
            "assert found.totals.rows == 1\n"
        )

        subprocess.run([sys.executable, "-c", script], check=True)

    def test_of_a_hub_model_needs_transformers(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)

        with pytest.raises(MissingExtra, match="train"):
            lk.preview("qa", data=ROWS, model="gpt2")


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({}, None),
        ({"model_type": "llama", "max_position_embeddings": 2048}, 2048),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "t5", "n_positions": 512}, None),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"text_config": {"model_type": "gemma3", "max_position_embeddings": 99}}, 99),
        ({"encoder": {"max_position_embeddings": 7}, "decoder": {}}, 7),
    ],
)
def test_how_much_a_model_reads_is_what_its_config_says(config, most):
    assert positions(config) == most
