"""Seed 004: eight virtual tokens take an instruction's place; the model's weights stay as they are."""

import tempfile
from pathlib import Path

import lmkit as lk

TWEETS = {
    "@nationalgridus I have no water and the bill is current and paid.": "complaint",
    "My parcel is late again and nobody answers the phone.": "complaint",
    "환불해 준다더니 두 달째 소식이 없네요.": "complaint",
    "Thank you for the quick help today!": "no complaint",
    "Just landed in Seoul, what a view.": "no complaint",
    "오늘 배송이 빨라서 좋았어요.": "no complaint",
}
ROWS = [{"text": text, "label": label} for text, label in TWEETS.items()]
INSTRUCTION = "Classify if the tweet is a complaint or not:"
COMPLAINTS = lk.Task(
    name="complaints",
    formatter=lk.context("{text} Label :") + lk.target(" {label}"),
    collator=lk.CausalCollator(max_length=128),
    decoder=lk.LabelDecoder(labels=("complaint", "no complaint")),
)
INSTRUCTED = COMPLAINTS.evolve(
    name="instructed", formatter=lk.context(INSTRUCTION + " ") + COMPLAINTS.formatter
)


def main() -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
    tiny = lk.scratch("llama", **sizes, num_attention_heads=4, max_position_embeddings=160)
    tokenizer = lk.train_tokenizer(kind="bpe", vocab_size=700, data=ROWS, task=INSTRUCTED)
    how = {"data": ROWS, "use_cpu": True}
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder)
        # A model that follows the instruction: in earnest, one from the hub.
        base = lk.train(INSTRUCTED, model=tiny, tokenizer=tokenizer, output=to / "base",
                        max_steps=60, learning_rate=5e-3, **how)  # fmt: skip
        soft = lk.prompt_tuning(num_virtual_tokens=8, init_text=INSTRUCTION)
        run = lk.train(COMPLAINTS, model=base.path, adapter=soft, output=to / "run",
                       max_steps=40, learning_rate=3e-2, **how)  # fmt: skip
        bundle = lk.export(run, output=to / "bundle", data=ROWS)
        ask = lk.load(bundle.path)  # the virtual tokens are there as keys and values
        for row in ROWS:
            answer = ask(row)
            print(f"{answer.value:<13}{answer.probabilities['complaint']:.2f}  {row['text']}")
        print(f"{run.parameters['trainable']} of {run.parameters['all']:,} parameters trained")


if __name__ == "__main__":
    main()
