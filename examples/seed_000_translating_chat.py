"""Seed 000: a chat model that translates English into Korean, from two conversations.

python examples/seed_000_translating_chat.py                       # tiny, from random weights
python examples/seed_000_translating_chat.py skt/A.X-4.0-Light     # the note's model, from the hub
"""

import sys
import tempfile
from pathlib import Path

import lmkit as lk

SYSTEM = "당신은 사용자가 제공하는 영어 문장들을 한국어로 번역하는 AI 전문가입니다."
PAIRS = {
    "The first human went into space and orbited the Earth on April 12, 1961.": (
        "1961년 4월 12일, 최초의 인간이 우주로 가서 지구를 공전했습니다."
    ),
    "Apollo 11 was the first mission to land humans on the Moon.": (
        "아폴로 11호는 인간을 달에 착륙시킨 최초의 임무였습니다."
    ),
}
ROWS = [
    {"messages": [system, {"role": "user", "content": en}, {"role": "assistant", "content": ko}]}
    for system in [{"role": "system", "content": SYSTEM}]
    for en, ko in PAIRS.items()
]

# Training text ends where the answer ends, and the prompt alone ends in the generation prompt: the
# same template renders both. The draw is the note's: top_k=50 and top_p=0.95.
TRANSLATE = lk.get_task("chat").evolve(
    name="translate",
    generation=lk.Generation(max_new_tokens=100, temperature=1.0, top_k=50, top_p=0.95, seed=0),
)


def main(hub_id: str | None = None) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
    tiny = lk.scratch("llama", **sizes, num_attention_heads=2, max_position_embeddings=256)
    tokenizer = None if hub_id else lk.train_tokenizer(kind="bpe", vocab_size=600, data=ROWS)
    with tempfile.TemporaryDirectory() as folder:
        run = lk.train(
            TRANSLATE,
            model=hub_id or tiny,
            tokenizer=tokenizer,
            data=ROWS,
            output=Path(folder, "run"),
            max_steps=60,
            learning_rate=2e-5 if hub_id else 1e-2,
            use_cpu=True,
        )
        ask = lk.load(lk.export(run, output=Path(folder, "bundle"), data=ROWS).path)
        for row in ROWS:
            asked = {"messages": row["messages"][:-1]}
            print(row["messages"][1]["content"], "->", ask(asked).value)
        print(f"perplexity: {lk.evaluate(run, data=ROWS)['perplexity']:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
