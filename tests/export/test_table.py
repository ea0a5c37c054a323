from types import SimpleNamespace

from lmkit.export.table import precision_notes, precision_table
from lmkit.saving.precisions import Precision

PERPLEXITY = {"bundle": 12.0, "increase": 0.0, "tokens": 4100, "records": 120}
BUNDLE = SimpleNamespace(
    precision="int4",
    precisions={
        "int4": Precision(
            size_bytes=86_500_000,
            greedy_agreement=0.893,
            perplexity={**PERPLEXITY, "bundle": 12.5, "increase": 0.0417},
            metrics={"rougeL": 0.31234, "records": 32},
            tokens_per_second=210.53,
            first_token_seconds=0.0871,
            memory_bytes=310_000_000,
            plan="12 of 211 weights stay in int8",
        ),
        "fp32": Precision(
            size_bytes=1_500_000_000,
            greedy_agreement=1.0,
            perplexity=PERPLEXITY,
            metrics={"rougeL": 0.33, "records": 32},
        ),
    },
)


def test_it_has_a_row_for_each_precision_and_says_which_is_the_default():
    titles, rows = precision_table(BUNDLE)
    int4, fp32 = (dict(zip(titles, row, strict=True)) for row in rows)

    assert int4 == {
        "precision": "int4 (default)",
        "size": "86.5 MB",
        "tokens/s": "210.5",
        "first token": "87 ms",
        "memory": "310.0 MB",
        "perplexity": "12.500 (+4.17%)",
        "rougeL": "0.3123",
        "greedy tokens as fp32": "89.3%",
    }
    assert (fp32["size"], fp32["tokens/s"], fp32["perplexity"]) == ("1.5 GB", "", "12.000")


def test_columns_that_nothing_is_known_of_are_left_out():
    bundle = SimpleNamespace(precision="fp32", precisions={"fp32": Precision(size_bytes=900)})

    assert precision_table(bundle) == (["precision", "size"], [["fp32", "900 bytes"]])


def test_the_notes_say_on_what_it_was_measured_and_by_which_plan():
    notes = " ".join(precision_notes(BUNDLE))

    assert "4,100 learned tokens of 120 records" in notes
    assert "32 records" in notes
    assert "int4: 12 of 211 weights stay in int8." in notes


def test_a_reason_for_a_missing_perplexity_is_told():
    found = Precision(perplexity={"not_measured": "the data has no answers to score"})
    bundle = SimpleNamespace(precision="fp32", precisions={"fp32": found})

    assert precision_notes(bundle) == [
        "Perplexity was not measured: the data has no answers to score."
    ]
