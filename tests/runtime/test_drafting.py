"""Drafts: the text of the plain loop, in fewer steps."""

import numpy as np
import pytest

import lmkit as lk
from lmkit.decoding.text import TextDecoder
from lmkit.runtime.causal_state import CausalState
from lmkit.runtime.pace import Pace

from .toybundle import RECORD, RECORDS, TASK, change_manifest, write_bundle

PLAIN = {"prompt_lookup_num_tokens": 0}
LONG = {"max_new_tokens": 40}
REPEATING = [
    {"prompt": text} for text in ("abcabcabc", "네네네", "one, one, on", "xyxyxy zxyx", "a")
]


class Eager(Pace):
    """Guesses wherever anything was there before, a number of tokens that changes."""

    def __init__(self):
        super().__init__()
        self.n_drafts = 0

    def best_count(self, chance, most):
        self.n_drafts += 1
        return 1 + self.n_drafts % min(5, most)


@pytest.fixture
def eager(ask, monkeypatch):
    """Return the toy model, which drafts whatever that costs."""
    monkeypatch.setattr(ask._session, "pace", Eager())
    return ask


@pytest.fixture
def read(monkeypatch):
    """Return what the model reads, as numbers of tokens, in order."""
    found = []
    extend, step = CausalState.extend, CausalState.step
    monkeypatch.setattr(
        CausalState,
        "extend",
        lambda state, row, ids, **options: (
            found.append(len(ids)) or extend(state, row, ids, **options)
        ),
    )
    monkeypatch.setattr(
        CausalState, "step", lambda state, tokens: found.append(1) or step(state, tokens)
    )
    return found


def options(rng):
    """Return a combination of everything that greedy decoding looks at."""
    return {
        "max_new_tokens": int(rng.integers(1, 60)),
        "min_new_tokens": 1,
        "repetition_penalty": float(rng.choice([1, 1, 0.8, 1.3])),
        "no_repeat_ngram_size": int(rng.choice([0, 0, 2, 3, 5])),
        "encoder_no_repeat_ngram_size": int(rng.choice([0, 0, 0, 3])),
        "forced_eos_token_id": rng.choice([None, 7]),
        "suppress_tokens": tuple(rng.integers(8, 264, rng.integers(0, 40)).tolist()),
        "stop": tuple(rng.choice(["a", "q", "네", "zz"], rng.integers(0, 2)).tolist()),
    }


class TestTheText:
    @pytest.mark.parametrize("seed", range(8))
    def test_is_the_plain_loops_whatever_the_options(self, eager, seed):
        rng = np.random.default_rng(seed)
        for _ in range(12):
            letters = rng.choice(list("ab,네 "), rng.integers(1, 6)).tolist()
            record = {"prompt": "".join(letters) * int(rng.integers(1, 4))}
            given = options(rng)

            assert eager(record, **given) == eager(record, **given, **PLAIN), (record, given)

        assert eager._session.pace.n_drafts > 5

    @pytest.mark.parametrize("record", REPEATING)
    def test_is_the_plain_loops_up_to_the_end_of_the_context(self, eager, record):
        assert eager(record, max_new_tokens=999) == eager(record, max_new_tokens=999, **PLAIN)

    @pytest.mark.parametrize("most", [1, 2, 30])
    def test_is_the_plain_loops_however_long_a_draft_may_be(self, eager, most, read):
        eager._session.pace.rounding = 1e-6  # which need not be measured then
        for record in REPEATING:
            wanted = eager(record, **LONG, **PLAIN)
            del read[:]

            assert eager(record, **LONG, prompt_lookup_num_tokens=most) == wanted
            assert max(read[1:]) <= most + 1  # the first one is the prompt

    @pytest.mark.parametrize("ends", [True, False])
    @pytest.mark.parametrize("behind", [(), (70, 3, 41)])
    def test_behind_a_prefix_and_where_it_ends(self, tmp_path, ends, behind):
        text = " 네, 네, 네, 네, 네!"
        ask = lk.load(
            write_bundle(tmp_path / "says", says=text, ends=ends, behind=behind), threads=1
        )
        ask._session.pace = Eager()
        for stop in [(), "네, 네, 네", "네!", "!"]:
            wanted = ask(RECORD, **LONG, stop=stop, **PLAIN)

            assert ask(RECORD, **LONG, stop=stop) == wanted
            assert "".join(ask.stream(RECORD, **LONG, stop=stop)) == wanted.text

    def test_comes_in_the_same_pieces(self, eager):
        for record in REPEATING:
            pieces = list(eager.stream(record, **LONG))

            assert pieces == list(eager.stream(record, **LONG, **PLAIN))

    def test_does_not_depend_on_what_was_drawn_or_batched(self, eager):
        sampled = {"temperature": 0.9, "seed": 3, **LONG}

        assert eager(RECORD, **sampled) == eager(RECORD, **sampled, **PLAIN)
        assert eager.batch(RECORDS, **LONG) == [
            eager(record, **LONG, **PLAIN) for record in RECORDS
        ]

    def test_stays_the_same_where_every_choice_is_a_near_tie(self, eager, monkeypatch):
        """So near that each is made again from single steps."""
        monkeypatch.setattr("lmkit.runtime.drafting._MARGIN", 1e9)
        for record in REPEATING:
            assert eager(record, **LONG) == eager(record, **LONG, **PLAIN)


class TestTheSteps:
    TEXT = " la la la la la la la la la la"

    @pytest.fixture
    def says(self, tmp_path):
        task = TASK.evolve(decoder=TextDecoder())
        ask = lk.load(write_bundle(tmp_path / "says", says=self.TEXT, task=task), threads=1)
        ask._session.pace = Eager()
        return ask

    def test_are_fewer_where_a_text_repeats(self, says, read):
        wanted = says(RECORD, **LONG, **PLAIN)
        plain = len(read)
        says(RECORD, **LONG)  # which measures the rounding too
        del read[:]

        assert says(RECORD, **LONG) == wanted
        assert wanted.text == self.TEXT
        assert plain == len(wanted.token_ids)
        assert len(read) < 0.7 * plain

    def test_are_the_plain_loops_where_the_model_rounds_what_it_reads(
        self, says, read, monkeypatch
    ):
        """Then tokens that are read together may come out otherwise, and drafts change the text."""
        extend = CausalState.extend
        monkeypatch.setattr(
            CausalState,
            "extend",
            lambda state, row, ids, **options: (
                extend(state, row, ids, **options) + 0.1 * (len(ids) > 1)
            ),
        )
        wanted = says(RECORD, **LONG, **PLAIN)
        says(RECORD, **LONG)
        del read[:]

        assert says(RECORD, **LONG) == wanted
        assert set(read[1:]) == {1}

    def test_are_the_plain_loops_where_a_draft_comes_out_otherwise_but_for_its_first_token(
        self, says, read, monkeypatch
    ):
        """A model that rounds may by chance read one token as it would alone."""
        extend = CausalState.extend

        def rounded(state, row, ids, **options):
            logits = extend(state, row, ids, **options)
            return logits + 0.1 * (np.arange(len(logits)) > 0)[:, None]

        monkeypatch.setattr(CausalState, "extend", rounded)
        wanted = says(RECORD, **LONG, **PLAIN)
        says(RECORD, **LONG)
        del read[:]

        assert says(RECORD, **LONG) == wanted
        assert set(read[1:]) == {1}

    def test_are_the_plain_loops_in_a_precision_that_rounds(self, tmp_path, read):
        folder = write_bundle(tmp_path / "int4", says=self.TEXT)
        change_manifest(
            folder,
            lambda data: data.update(
                precision="int4", precisions={"int4": data["precisions"]["fp32"]}
            ),
        )
        ask = lk.load(folder, threads=1, verify=False)

        assert ask(RECORD, **LONG).text == self.TEXT
        assert ask._session.pace.is_steady is False
        assert set(read[1:]) == {1}

    def test_are_the_plain_loops_where_drafts_are_off(self, says, read):
        says(RECORD, **LONG, **PLAIN)

        assert set(read[1:]) == {1}
