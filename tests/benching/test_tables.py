from lmkit.benching.tables import markdown, notes, side_rows, speed_rows

from .reports import LONG, SHORT, report, result


def test_each_work_has_a_row_of_every_side():
    titles, rows = speed_rows(report())

    assert titles[:5] == ("work", "side", "first token ms", "x first", "ms/token")
    assert [row[:2] for row in rows] == [
        ("16 + 3 tokens", "lmkit"),
        ("16 + 3 tokens", "peer"),
        ("512 + 3 tokens", "lmkit"),
        ("512 + 3 tokens", "peer"),
    ]
    assert rows[1][2:5] == ("200 (180-220)", "1.00", "20.00")
    assert all(len(row) == len(titles) for row in rows)


def test_a_side_that_failed_midway_has_dashes_and_a_reason():
    half = result("peer", 0.02, works=[SHORT], failed=f"{LONG}: no room")
    found = report(result("lmkit", 0.01, ours=True), half)
    _, rows = speed_rows(found)

    assert set(rows[3][2:]) == {"-"}
    assert "peer failed: 512 + 3 tokens: no room" in notes(found)


def test_notes_name_the_machine_the_limit_and_who_is_missing():
    found = notes(report())

    assert "A <fast> one, 2 cores, 2 threads a side" in found[0]
    assert "the machine reads 40.0 GB/s from memory (38.0-41.0)" in found
    assert "lmkit: 100.0 MB of weights a token, so at most 400 steps/s" in found
    assert "absent skipped: not installed; pip install absent" in found


def test_a_masked_model_has_texts_a_second_and_no_tokens():
    titles, rows = speed_rows(report(family="masked"))

    assert titles[2:4] == ("batch ms", "texts/s")
    assert rows[0][3] == "4.55 (4.13-5.05)"


def test_markdown_has_both_tables_with_all_cells():
    lines = markdown(report()).splitlines()
    cells = {line.count("|") for line in lines if line.startswith("|")}

    assert lines[1].startswith("| --- | --- | ---: |")
    assert cells == {len(speed_rows(report())[0]) + 1, len(side_rows(report())[0]) + 1}
    assert any(line.startswith("| lmkit | lmkit 1.0 |") for line in lines)


def test_every_side_stands_beside_the_first_whoever_wins():
    titles, rows = speed_rows(report(result("lmkit", 0.01, ours=True), result("peer", 0.005)))
    ratio = len(titles) - 1 - titles[::-1].index("x first")

    assert [row[ratio] for row in rows[:2]] == ["1.00", "2.00"]
    assert any(
        line.startswith("x first: how many times as fast as lmkit") for line in notes(report())
    )


def test_perplexity_has_a_column_where_any_side_told_it():
    scored = report(result("lmkit", 0.01, ours=True, perplexity=12.3456), result("peer", 0.02))

    assert "perplexity" not in side_rows(report())[0]
    assert [row[-1] for row in side_rows(scored)[1]] == ["12.346", "-"]
