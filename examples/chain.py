"""Two bundles, one after the other: the first answers, and its answer is what the second is asked.

`facts` turns a story into a fact; `judge` reads the fact with the law, and says what follows. Both run
without torch once they are exported: `lmkit generate --chain facts judge --set story=... --set law=...`
"""

import tempfile
from pathlib import Path

import lmkit as lk

FACTS = lk.get_task("qa").evolve(
    name="facts", formatter=lk.context("이야기: {story}\n사실:") + lk.target(" {fact}")
)
JUDGE = lk.get_task("qa").evolve(
    name="judge", formatter=lk.context("{law}\n{fact}\n판단:") + lk.target(" {verdict}")
)
LAW = "물건을 훔치면 유죄"
STORIES = [
    {"story": "밤에 철수가 빵을 몰래 가져갔다.", "fact": "철수가 훔쳤다.", "verdict": "유죄"},
    {"story": "낮에 영희가 빵을 돈 내고 샀다.", "fact": "영희가 샀다.", "verdict": "무죄"},
]
DATA = [{**story, "law": LAW} for story in STORIES]


def bundle_of(task: lk.Task, folder: Path) -> Path:
    run = lk.train(
        task,
        model=lk.scratch("gpt2", n_layer=2, n_embd=32, n_head=4, n_positions=128),
        tokenizer=lk.train_tokenizer(kind="char", unknown="token", data=DATA),
        data=DATA * 8,
        output=folder / f"{task.name}-run",
        max_steps=60,
        learning_rate=1e-2,
        save_strategy="no",
        logging_steps=20,
        use_cpu=True,
    )
    return lk.export(run, output=folder / task.name).path


def main() -> None:
    shape = lk.chain(FACTS, JUDGE)
    print(shape)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ask = shape.on(bundle_of(FACTS, folder), bundle_of(JUDGE, folder))
        for story in STORIES:
            answer = ask({"story": story["story"], "law": LAW})
            print(story["story"], "->", " -> ".join(step.value for step in answer.steps))
        try:
            ask({"law": LAW})
        except lk.LmkitError as error:
            print(error)


if __name__ == "__main__":
    main()
