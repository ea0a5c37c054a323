import json

import numpy as np
import pytest

from lmkit.benching import SideFailed, Work, bench
from lmkit.benching.measuring import LEARNING
from lmkit.benching.passages import paragraphs
from lmkit.benching.weights import bytes_per_token
from lmkit.encoding import Encoded
from lmkit.errors import TaskError, UnknownName
from lmkit.runtime.opening import load

QUICK = {"prompt_tokens": [8], "new_tokens": [6], "rounds": 3, "threads": 1}
WORK = Work(prompt_tokens=8, new_tokens=6)


@pytest.fixture(scope="module")
def report(bundle):
    return bench(bundle, **QUICK)


def test_every_figure_of_a_bundle_is_measured(report):
    (result,) = report.results
    figures = result.figures[WORK]

    assert result.ours
    assert figures.first_token_s.low <= figures.first_token_s.median <= figures.first_token_s.high
    assert figures.token_p50_s <= figures.token_p99_s
    assert figures.whole_s.median >= figures.first_token_s.median + 5 * figures.token_s.low
    assert result.start_to_first_token_s > result.load_s > 0
    assert result.peak_bytes > 20e6
    assert figures.agreeing_tokens == 6


def test_the_share_of_the_limit_is_bytes_read_over_the_bytes_that_could_be(report, bundle):
    (result,) = report.results
    figures = result.figures[WORK]
    read = figures.tokens_per_second.median * bytes_per_token(bundle / "model.onnx")

    assert figures.share_of_limit == pytest.approx(read / report.read_limit.median)
    assert 0 < figures.share_of_limit < 1


def test_a_report_becomes_json(report):
    data = json.loads(json.dumps(report.document()))

    assert data["results"][0]["figures"][0]["prompt_tokens"] == 8
    assert data["machine"]["cores"] >= 1


def test_sides_take_turns_and_each_does_every_work_once_a_round(bundle, peer):
    said = []
    bench(
        bundle,
        against=[peer("fake")],
        on_progress=lambda what, done, total: said.append((what, done, total)),
        **{**QUICK, "prompt_tokens": [8, 9]},
    )
    worked = [what for what, _, _ in said if not what.startswith("loading")]

    assert worked[:4] == [
        "lmkit fp32: 8 + 6 tokens",
        "fake: 8 + 6 tokens",
        "lmkit fp32: 9 + 6 tokens",
        "fake: 9 + 6 tokens",
    ]
    assert worked == worked[:4] * 4
    assert said[-1][1:] == (15, 16)


def test_a_peers_own_times_are_its_figures(bundle, peer):
    report = bench(bundle, against=[peer("fake")], **QUICK)
    theirs = report.results[1]
    figures = theirs.figures[WORK]

    assert theirs.library == "fake 1.0"
    assert figures.first_token_s.median == 0.5
    assert figures.tokens_per_second.median == pytest.approx(10)
    assert figures.whole_s.median == pytest.approx(1.0)
    assert figures.share_of_limit is None
    assert figures.agreeing_tokens < 6


def test_several_rows_at_once_count_together(bundle):
    report = bench(bundle, batch_sizes=[1, 3], **QUICK)
    figures = report.results[0].figures[Work(prompt_tokens=8, new_tokens=6, rows=3)]

    assert figures.tokens_per_second.median == pytest.approx(3 / figures.token_s.median)
    assert figures.share_of_limit is None


def test_a_beam_search_has_one_time(bundle):
    report = bench(bundle, beams=2, **QUICK)
    figures = report.results[0].figures[Work(prompt_tokens=8, new_tokens=6, beams=2)]

    assert figures.first_token_s is None
    assert figures.tokens_per_second.median == pytest.approx(6 / figures.whole_s.median)


def test_a_repeating_text_is_written_without_and_with_drafts(bundle):
    report = bench(bundle, repeats=True, **QUICK)
    plain, drafted = report.results
    work = Work(prompt_tokens=8, new_tokens=6, repeats=True)

    assert [plain.title, drafted.title] == ["lmkit fp32", "lmkit fp32 + drafts"]
    assert drafted.figures[work].agreeing_tokens == 6


def test_drafts_are_measured_behind_texts_enough_to_load_what_reads_them(bundle):
    done = []

    bench(bundle, repeats=True, on_progress=lambda what, at, total: done.append(what), **QUICK)

    runs = [what for what in done if what.startswith("lmkit fp32 + drafts:")]
    assert len(runs) == LEARNING + QUICK["rounds"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dies", "8 + 6 tokens: it ended with exit code 7: out of luck"),
        ("raises", "8 + 6 tokens: MemoryError: no room"),
    ],
)
def test_a_peer_that_fails_is_named_with_its_reason_and_the_rest_goes_on(
    bundle, peer, name, reason
):
    report = bench(bundle, against=[peer(name), peer("fake")], **QUICK)
    ours, failing, fake = report.results

    assert failing.failed == reason
    assert not failing.figures
    assert len(ours.figures) == len(fake.figures) == 1


def test_work_that_a_peer_cannot_do_costs_it_no_other(bundle, peer):
    report = bench(bundle, against=[peer("fussy")], batch_sizes=[3, 1], **QUICK)
    fussy = report.results[1]

    assert fussy.failed == "8 + 6 tokens, 3 rows: ValueError: no batches"
    assert list(fussy.figures) == [WORK]


def test_a_peer_that_is_not_installed_is_skipped_with_what_to_install(bundle, peer):
    report = bench(bundle, against=[peer("fake", "absent")], **QUICK)
    (skipped,) = report.skipped

    assert len(report.results) == 1
    assert "No module named 'there_is_no_such_library'" in skipped.reason
    assert skipped.reason.endswith("pip install fake")


def test_a_peer_whose_model_cannot_be_read_is_skipped_with_the_reason(bundle, peer):
    report = bench(bundle, against=[peer("fake", "unreadable")], **QUICK)

    assert report.skipped[0].reason == "ValueError: no such model"


def test_a_python_that_is_not_there_is_a_reason(bundle, peer):
    pythons = {"fake": "/there/is/no/python"}
    report = bench(bundle, against=[peer("fake")], peer_pythons=pythons, **QUICK)

    assert "/there/is/no/python" in report.skipped[0].reason


def test_what_does_not_fit_the_model_is_refused_before_anything_is_measured(bundle):
    with pytest.raises(TaskError, match=r"60 tokens and 6 new ones do not fit .* of 64"):
        bench(bundle, **{**QUICK, "prompt_tokens": [60]})


def test_lengths_that_are_not_said_fit_the_model(bundle):
    report = bench(bundle, rounds=1, threads=1)

    assert report.works == [Work(prompt_tokens=16, new_tokens=32)]


def test_a_precision_that_the_bundle_lacks_is_named(bundle):
    with pytest.raises(UnknownName, match="no precision of this bundle named 'int5'"):
        bench(bundle, precisions=["int5"], **QUICK)


def test_ours_failing_is_an_error_and_no_report(bundle, monkeypatch):
    monkeypatch.setattr("lmkit.benching.measuring.our_sides", lambda *_, **__: [_broken(bundle)])

    with pytest.raises(SideFailed, match=r"lmkit: .*no bundle"):
        bench(bundle, **QUICK)


def _broken(bundle):
    from lmkit.benching.sides import WORKERS, Side

    absent = str(bundle / "absent")
    return Side(name="lmkit", precision=None, model=absent, worker=WORKERS / "with_lmkit.py")


def test_sides_tell_how_likely_a_text_is_where_that_is_asked_for(bundle, peer):
    report = bench(bundle, against=[peer("fake")], quality=True, **QUICK)
    ours, fake = report.results

    assert ours.perplexity == pytest.approx(_perplexity(bundle), rel=1e-6)
    assert fake.perplexity is None
    assert "no attribute 'score'" in fake.unscored


def _perplexity(bundle):
    """The passage's perplexity by the loaded bundle's own scoring."""
    model = load(bundle)
    most = model.manifest.graph.context_length
    rows = [np.array(row) for row in paragraphs(model.tokenizer, most)]
    return model.score([Encoded(input_ids=row, labels=row) for row in rows]).figures()["perplexity"]
