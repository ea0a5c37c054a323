"""Seed 004: does a party win its case? The prompt asks about the party that the facts name.

The choice of the prompt is data, written with `|`: the first alternative whose columns a record has.
So the bundle holds it, and no Python function does. `first_party` and `second_party` hold a name if
it stands in the facts, and are blank otherwise; "the complainant" is the first party.
Whether the party that is asked about won is worked out once, in the column `answer` of the rows.
"""

import tempfile
from pathlib import Path

import lmkit as lk

WINS = lk.get_task("classify").evolve(
    name="wins",
    formatter=lk.context("{facts}\n")
    + (
        lk.context("Does {first_party} win?")
        | lk.context("Does {second_party} win?")
        | lk.context("Does the complainant win?")
    )
    + lk.target(" {answer}"),
)
CASES = [  # facts, first party, second party, whether the first party won; invented
    ("Alder sued Birch over a broken fence.", "Alder", "Birch", False),
    ("Cedar sued the town for a permit.", "Cedar", "the town", True),
    ("A tenant was put out by Dogwood without notice.", "Elm", "Dogwood", True),
    ("A rider slipped on steps that Fir had salted.", "Gorse", "Fir", False),
    ("A parcel was lost and nobody could say where.", "Hazel", "Ivy", True),
    ("A claim was filed too late.", "Juniper", "Kauri", False),
]


def row(facts: str, first: str, second: str, first_won: bool) -> dict[str, str]:
    first, second = (party if party in facts else "" for party in (first, second))
    won = not first_won if second and not first else first_won
    parties = {"first_party": first, "second_party": second}
    return {"facts": facts, **parties, "answer": "Yes" if won else "No"}


def main(output: Path) -> None:
    rows = [row(*case) for case in CASES]
    tokenizer = lk.train_tokenizer(kind="bpe", vocab_size=320, data=rows)
    model = lk.scratch("gpt2", n_layer=2, n_embd=32, n_head=2, n_positions=128)
    options = {"max_steps": 60, "learning_rate": 1e-2, "save_strategy": "no", "use_cpu": True}
    run = lk.train(
        WINS, data=rows, output=output / "run", model=model, tokenizer=tokenizer, **options
    )
    ask = lk.load(lk.export(run, output=output / "bundle", data=rows).path)
    for record, answer in zip(rows, ask.batch(rows), strict=True):
        prompt = ask.tokenizer.decode(ask.prompt(record)).splitlines()[-1]
        print(
            f"{prompt} {answer.value} ({answer.probabilities['Yes']:.2f} Yes); {record['answer']}"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
