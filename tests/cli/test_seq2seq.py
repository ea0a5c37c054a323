"""Summaries on the command line, from training to answers."""

import json

import pytest

ROWS = [
    {"article": "오늘 국회는 새 법안을 통과시켰다.", "summary": "새 법안 통과"},
    {"article": "A bill to reform the flood program.", "summary": "Flood reform."},
] * 4
SIDE = (
    '{"model_type":"bert","hidden_size":16,"num_hidden_layers":1,"num_attention_heads":2,'
    '"intermediate_size":32,"max_position_embeddings":64}'
)
PAIR = f"scratch:encoder-decoder,encoder={SIDE},decoder={SIDE}"


def test_show_has_the_source_and_the_target_below_it(lmkit):
    done = lmkit("show", "summarize")

    assert done.code == 0
    assert "summarize: <article>«<summary>»" in done.out
    assert "row  30 tokens, 10 learned, 20 in the prompt" in done.out
    kinds = [
        line.split()[-1] for line in done.out.splitlines() if line.endswith(("read   ", "learned"))
    ]
    assert kinds == ["read"] * 20 + ["learned"] * 10


def test_show_as_json_keeps_both_apart(lmkit):
    done = lmkit("show", "summarize", "--json")

    shown = json.loads(done.out)
    assert shown["input_ids"] == shown["prompt_ids"]
    assert shown["n_learned"] == len(shown["labels"]) == 10
    assert shown["reference"] == "<summary>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import lmkit as lk
    from lmkit.scratch import parse_scratch

    folder = tmp_path_factory.mktemp("run") / "run"
    lk.train(
        "summarize",
        model=parse_scratch(PAIR),
        tokenizer=lk.train_tokenizer(kind="char", unknown="token", data=ROWS),
        data=ROWS,
        output=folder,
        max_steps=1,
        save_strategy="no",
        use_cpu=True,
    )
    return folder


@pytest.mark.slow
class TestARun:
    def test_is_measured(self, lmkit, folder, jsonl):
        done = lmkit("evaluate", folder, "--data", jsonl(ROWS), "--json")

        figures = json.loads(done.out)
        learned = sum(len(row["summary"]) + 1 for row in ROWS)  # each character, and the EOS
        assert (figures["records"], figures["tokens"]) == (len(ROWS), learned)

    def test_answers(self, lmkit, folder):
        done = lmkit(
            "generate", folder, "--set", "article=A bill", "--max-new-tokens", "3", "--json"
        )

        assert done.code == 0
        assert json.loads(done.out)["usage"]["completion_tokens"] <= 3

    @pytest.mark.parametrize(
        ("row", "problem"),
        [
            ({"article": "x" * 80}, "its source has 91 tokens, and the task reads 64"),
            ({"summary": "x"}, "column 'article' is missing"),
        ],
    )
    def test_says_which_article_it_cannot_read(self, lmkit, folder, jsonl, row, problem):
        data = jsonl([ROWS[0], row])

        done = lmkit("generate", folder, "--input", data, "--output", data.with_name("out.jsonl"))

        assert done.code == 1
        assert f"{data}:2: {problem}" in done.err
        assert "Traceback" not in done.err
