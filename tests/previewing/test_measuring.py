"""Totals and lengths, against what numpy says of the same rows."""

import numpy as np
import pytest

import lmkit as lk
from lmkit.collating.packing import packing_fill
from lmkit.encoding import IGNORE, Encoded
from lmkit.family import Family
from lmkit.previewing.measuring import Measures, histogram, lengths


def row(length, learned, cut=0):
    labels = np.full(length, IGNORE)
    labels[length - learned :] = 7
    return Encoded(np.full(length, 7), labels, n_cut=cut)


@pytest.fixture
def measured():
    found = Measures(Family.CAUSAL)
    rows = [row(5, 2), row(9, 1), row(9, 4, cut=3), row(2, 1)]
    for record, one in zip([0, 0, 1, 3], rows, strict=True):
        found.add(one, record)
    return found


def test_totals_are_sums(measured):
    totals = measured.totals(records=4, dropped={"bad": 1}, max_length=9, packs=True)

    assert (totals.rows, totals.tokens, totals.learned) == (4, 25, 8)
    assert (totals.cut_rows, totals.cut_tokens) == (1, 3)
    assert totals.packing_fill == packing_fill([5, 9, 9, 2], 9)
    assert totals.padding_share == pytest.approx(1 - 25 / 36)


def test_a_row_knows_its_record_and_which_of_its_texts_it_is(measured):
    assert [measured.record_of(place) for place in range(4)] == [(0, 0), (0, 1), (1, 0), (3, 0)]


def test_the_longest_is_so_before_it_is_cut(measured):
    assert measured.extremes() == {"longest": 2, "shortest": 3, "most cut": 2}


@pytest.mark.parametrize("seed", range(5))
def test_a_histogram_has_every_row_in_one_bar(seed):
    counts = np.sort(np.random.default_rng(seed).lognormal(4, 1, 500).astype(np.int64) + 1)
    found = histogram(counts)

    assert sum(found.counts) == 500
    assert list(found.edges) == sorted(set(found.edges))
    for low, high, count in zip(found.edges, found.edges[1:], found.counts, strict=False):
        assert count == ((counts >= low) & (counts < high)).sum()
    assert len(found.counts) <= 14


@pytest.mark.parametrize("counts", [[1], [5, 5, 5], [1, 1000], list(range(1, 100))])
def test_lengths_are_those_of_the_rows(counts):
    found = lengths("row", np.array(counts))

    assert (found.shortest, found.longest) == (min(counts), max(counts))
    assert found.median in counts
    assert found.p95 == np.sort(counts)[int(np.ceil(0.95 * len(counts))) - 1]
    assert found.mean == pytest.approx(np.mean(counts))


def test_of_a_pair_of_texts_both_are_measured(load_shared):
    rows = [{"article": "a b c d", "summary": "a"}, {"article": "a b", "summary": "a b c"}]
    preview = lk.preview("summarize", data=rows, tokenizer=load_shared("t5"))

    assert [part.name for part in preview.lengths] == ["source", "target"]
    encoded = lk.encode("summarize", rows, load_shared("t5"))
    assert preview.totals.tokens == sum(len(r.input_ids) + len(r.labels) for r in encoded)
    assert preview.totals.learned == sum(len(r.labels) for r in encoded)
    assert all(shown.target for shown in preview.shown)
