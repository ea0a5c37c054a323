"""What holds of every text, every kind of tokenizer and every layout of segments.

`LMKIT_THOROUGH=1000` looks at so many examples of each property, other ones every time; without it
few are looked at, the same each time.
"""

import functools
import itertools
import os

import numpy as np
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from kinds import KINDS, Kind, kind
from tokenizers import Tokenizer as Backend

import lmkit as lk
from lmkit.encoding import IGNORE, encode, prompt_ids
from lmkit.errors import RecordError
from lmkit.formatting import SIDES, Cut, Segment
from lmkit.saving.jsonform import from_json, to_json
from lmkit.task import Task
from lmkit.tokenizing import Span

THOROUGH = int(os.environ.get("LMKIT_THOROUGH", "0"))
FEW = 40
WHOLE = 100_000  # tokens, more than any row here has
COLUMNS = ("a", "b", "c")

holds = settings(
    max_examples=THOROUGH or FEW,
    derandomize=not THOROUGH,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

# What is likely to break a seam: white space, jamo, marks, joiners, directions, controls, and pieces
# of control tokens.
BITS = (
    *(" ", "  ", "\n", "\t", "\u00a0", "\u3000", "\u200b", "\u200d", "\u00ad", "\ufeff", "\u202e"),
    *("a", "A", "film", "don't", "12", ".", "한", "\u1112", "\u1161", "\u11ab", "é", "e\u0301"),
    *("👩", "👩\u200d👧", "🇰🇷", "❤\ufe0f", "\x00", "\x1b", "\x85", "\ufffd", "ا", "ﬁ", "▁", "##"),
    *("<|im_end|>", "<|im_start|>", "<|endoftext|>", "</s>", "<s>", "<eos>", "[SEP]", "[sep]"),
    *("<", ">", "<|", "|>", "[", "]", "/s>", "im_end", "＜", "＞", "<0x41>", "<think>", "</think>"),
)
# What only a formatter writes; it brings no control tokens here, so that there are none but the frame.
WORDS = ("", " ", "\n", "Q: ", "답:", " a", "Is it? ", "#", "{{x}}")

texts = st.one_of(st.text(max_size=12), st.lists(st.sampled_from(BITS), max_size=6).map("".join))
kinds = st.sampled_from(KINDS).map(kind)


def readable(of: Kind, text: str) -> str:
    """Return a text without what a tokenizer refuses to read, as a character one does."""
    if of.tokenizer.special.get("unk_token") or not of.tokenizer.unknown_in("힣"):
        return text
    return "".join(char for char in text if of.knows(char))


@st.composite
def rooms(draw, of: Kind) -> int:
    """Return a row's length, in which there is room for a frame and a token at least."""
    frame = len(of.tokenizer.opening_ids) + len(of.tokenizer.closing_ids)
    return draw(st.integers(frame + 2, frame + 30))


@st.composite
def templates(draw):
    """Return a formatter of contexts and targets, with conditions and choices."""

    def piece(make):
        parts = draw(
            st.lists(
                st.sampled_from([*WORDS, *(f"{{{column}}}" for column in COLUMNS)]), max_size=4
            )
        )
        found = make("".join(parts))
        when = draw(st.lists(st.sampled_from(COLUMNS), max_size=1))
        return found.when(*when) if when else found

    def choice(make):
        return make("1 {a} ") | make("2 {b}") | make("\n")

    makes = [*draw(st.lists(st.sampled_from([lk.context, lk.target]), max_size=4)), lk.target]
    found = [draw(st.sampled_from([piece, piece, choice]))(make) for make in makes]
    return sum(found[1:], found[0])


@st.composite
def records(draw, of: Kind):
    return {column: readable(of, draw(texts)) for column in COLUMNS}


def task(formatter, collator) -> Task:
    return lk.Task(name="t", formatter=formatter, collator=collator, decoder=lk.TextDecoder())


@st.composite
def causal(draw):
    """Return a kind, a task, and a record from which something can be learned."""
    of = draw(kinds)
    made = task(draw(templates()), lk.CausalCollator(max_length=WHOLE))
    record = draw(records(of))
    assume(any(segment.learn for segment in made.formatter.segments(record)))
    return of, made, record


@st.composite
def segments(draw, of: Kind):
    """Return segments as a formatter of a third party may: any text, any trust, any cut."""
    found = draw(
        st.lists(
            st.builds(
                Segment,
                texts.map(lambda text: readable(of, text)),
                st.booleans(),
                st.booleans(),
                st.none() | st.builds(Cut, st.sampled_from(SIDES), st.integers(-1, 1)),
            ),
            min_size=1,
            max_size=6,
        )
    )
    assume(any(segment.learn for segment in found))
    return found


@functools.cache
def library(definition: str) -> Backend:
    """Return a tokenizer of the library's own, which takes control tokens in a text for text."""
    found = Backend.from_str(definition)
    found.no_truncation()
    found.no_padding()
    found.encode_special_tokens = True
    return found


def learned(row):
    return row.labels[row.labels != IGNORE]


def runs(found):
    """Return the learned stretches of a row, each as ids."""
    return [
        [int(token) for token, _ in run]
        for learn, run in itertools.groupby(
            zip(found.input_ids, found.labels != IGNORE, strict=True), key=lambda pair: pair[1]
        )
        if learn
    ]


def the_prompt(made, record, tokenizer):
    """Return a prompt's ids; none where it is empty, and refused."""
    try:
        return prompt_ids(made, record, tokenizer)
    except RecordError as error:
        if "empty" not in error.problem:
            raise
        return np.empty(0, np.int64)


class TestAText:
    @holds
    @given(kinds, texts)
    def test_gets_the_ids_that_the_library_gives_it(self, of, text):
        text = readable(of, text)
        assume(not any(mark.text in text for mark in of.tokenizer.marks))
        expected = library(of.tokenizer.definition).encode(text, add_special_tokens=False).ids
        assume(not of.acting(expected) and "<0x" not in text)

        assert of.tokenizer.encode(text) == expected
        assert of.tokenizer.encode(text) == expected  # of what is remembered now

    @holds
    @given(kinds, st.lists(texts, min_size=1, max_size=4))
    def test_is_one_text_however_it_is_cut_into_spans(self, of, parts):
        parts = [readable(of, part) for part in parts]
        spans = [Span(part) for part in parts]

        assert of.tokenizer.encode_spans(spans, opens=True) == of.tokenizer.encode("".join(parts))


class TestARowOfATemplate:
    @holds
    @given(causal())
    def test_begins_with_its_prompt_of_which_nothing_is_learned(self, drawn):
        of, made, record = drawn
        row = encode(made, [record], of.tokenizer)[0]
        asked = the_prompt(made, record, of.tokenizer)

        assert row.input_ids[: len(asked)].tolist() == asked.tolist()
        assert (row.labels[: len(asked)] == IGNORE).all()

    @holds
    @given(causal())
    def test_decodes_to_its_text_and_what_is_learned_to_what_is_to_be_learned(self, drawn):
        of, made, record = drawn
        pieces = [
            (learn, "".join(segment.text for segment in run))
            for learn, run in itertools.groupby(
                made.formatter.segments(record), key=lambda segment: segment.learn
            )
        ]
        assume(of.knows(*(text for _, text in pieces)))
        assume(not any(mark.text in text for mark in of.tokenizer.marks for _, text in pieces))
        row = encode(made, [record], of.tokenizer)[0]
        note(f"{pieces} {[of.tokenizer.id_to_token(i) for i in row.input_ids]}")

        assert of.same(of.tokenizer.decode(row.input_ids), *(text for _, text in pieces))
        spoken = [text for learn, text in pieces if learn and of.tokenizer.encode(text)]
        ids = [run for run in runs(row) if run != [of.tokenizer.eos_id]]
        if len(ids) == len(spoken):  # white space between two targets may have no ids
            for run, text in zip(ids, spoken, strict=True):
                assert of.same(of.tokenizer.decode(run), text)

    @holds
    @given(causal())
    def test_has_no_control_token_but_its_frame(self, drawn):
        of, made, record = drawn
        row = encode(made, [record], of.tokenizer)[0]
        read = row.input_ids[row.labels == IGNORE].tolist()
        controls = [token for token in learned(row) if of.tokenizer.is_control(int(token))]
        frame = of.acting(of.tokenizer.opening_ids)

        assert of.acting(read) == frame
        assert [t for t in controls if not of.tokenizer.is_unknown(t)] == [of.tokenizer.eos_id]
        assert learned(row)[-1] == of.tokenizer.eos_id

    @holds
    @given(causal())
    def test_is_the_same_after_a_trip_of_its_task_through_json(self, drawn):
        of, made, record = drawn
        again = from_json(to_json(made), Task)
        row, other = (encode(t, [record], of.tokenizer)[0] for t in (made, again))

        assert again == made
        assert row.input_ids.tolist() == other.input_ids.tolist()
        assert row.labels.tolist() == other.labels.tolist()

    @holds
    @given(causal(), st.data())
    def test_is_the_same_alone_and_among_others(self, drawn, data):
        of, made, record = drawn
        others = data.draw(st.lists(records(of), max_size=4))
        rows = [record, *(r for r in others if any(s.learn for s in made.formatter.segments(r)))]
        together = encode(made, rows, of.tokenizer)

        assert len(together) == len(rows)
        for row, one in zip(together, rows, strict=True):
            alone = encode(made, [one], of.tokenizer)[0]
            assert row.input_ids.tolist() == alone.input_ids.tolist()
            assert row.labels.tolist() == alone.labels.tolist()


def encoded(collator, found, of, *, delimited=False):
    """Return a row; None where nothing is to be read, or more is never to be cut than fits."""
    try:
        return collator.encode(found, of.tokenizer, delimited=delimited)
    except RecordError as error:
        never = any(segment.cut is not None and segment.cut.side == "never" for segment in found)
        if "source is empty" in error.problem or (never and "there is room for" in error.problem):
            return None
        raise


class TestARowOfAnySegments:
    @holds
    @given(kinds, st.data(), st.booleans())
    def test_begins_with_the_ids_of_what_stands_before_the_first_answer(self, of, data, delimited):
        found = data.draw(segments(of))
        collator = lk.CausalCollator(max_length=WHOLE)
        row = collator.encode(found, of.tokenizer, delimited=delimited)
        before = list(itertools.takewhile(lambda segment: not segment.learn, found))
        try:
            asked = collator.prompt(before, of.tokenizer, delimited=delimited).tolist()
        except RecordError:
            asked = []

        assert row.input_ids[: len(asked)].tolist() == asked

    @holds
    @given(kinds, st.data(), st.booleans())
    def test_loses_what_it_counts_and_never_its_end(self, of, data, delimited):
        found = data.draw(segments(of))
        most = data.draw(rooms(of))
        whole = lk.CausalCollator(max_length=WHOLE).encode(found, of.tokenizer, delimited=delimited)
        row = encoded(lk.CausalCollator(max_length=most), found, of, delimited=delimited)
        assume(row is not None)

        assert len(row) <= most
        assert len(row) + row.n_cut == len(whole)
        assert len(learned(row)) + row.n_cut_learned == len(learned(whole))
        assert learned(row)[-1] == learned(whole)[-1]
        assert is_subsequence(row.input_ids, whole.input_ids)

    @holds
    @given(kinds, st.data())
    def test_says_of_its_whole_what_is_kept(self, of, data):
        found = data.draw(segments(of))
        for collator in (
            lk.CausalCollator(max_length=8),
            lk.Seq2SeqCollator(max_source_length=8, max_target_length=6),
        ):
            row = encoded(collator, found, of)
            if row is not None:
                parts = collator.whole(found, of.tokenizer, delimited=False)

                assert np.array_equal(parts[0].input_ids[parts[0].kept], row.input_ids)
                assert np.array_equal(parts[-1].labels[parts[-1].kept], row.labels)
                assert sum(part.n_cut for part in parts) == row.n_cut
                assert sum(part.n_cut_learned for part in parts) == row.n_cut_learned

    @holds
    @given(kinds, st.data())
    def test_acts_only_where_it_is_trusted(self, of, data):
        found = data.draw(segments(of))
        row = lk.CausalCollator(max_length=WHOLE).encode(found, of.tokenizer, delimited=True)
        trusted = "\0".join(segment.text for segment in found if segment.trusted)
        named = {token.text for token in of.tokenizer.marks} | {of.tokenizer.special["eos_token"]}

        for token in of.acting(row.input_ids):
            # Halves in two trusted neighbours join, and marks act in what is learned.
            assert token in named or token in trusted.replace("\0", "")

    @holds
    @given(kinds, st.data())
    def test_has_one_beginning_of_text(self, of, data):
        found = [s for s in data.draw(segments(of)) if not s.trusted]
        assume(of.tokenizer.opening_ids and any(segment.learn for segment in found))
        row = lk.CausalCollator(max_length=WHOLE).encode(found, of.tokenizer, delimited=False)

        for token in of.tokenizer.opening_ids:
            assert row.input_ids.tolist().count(token) == 1

    @holds
    @given(kinds, st.data())
    def test_of_seq2seq_loses_what_it_counts_and_never_an_end(self, of, data):
        found, most = data.draw(segments(of)), data.draw(rooms(of))
        whole = encoded(
            lk.Seq2SeqCollator(max_source_length=WHOLE, max_target_length=WHOLE), found, of
        )
        assume(whole is not None)
        row = encoded(lk.Seq2SeqCollator(max_source_length=most, max_target_length=most), found, of)
        assume(row is not None)

        assert max(len(row.input_ids), len(row.labels)) <= most
        both = len(row.input_ids) + len(row.labels)
        assert both + row.n_cut == len(whole.input_ids) + len(whole.labels)
        assert row.labels[-1] == whole.labels[-1]
        assert is_subsequence(row.labels, whole.labels)
        assert is_subsequence(row.input_ids, whole.input_ids)

    @holds
    @given(kinds, st.data())
    def test_of_a_masked_model_loses_what_it_counts_and_keeps_its_frame(self, of, data):
        assume(of.tokenizer.mask_id is not None)
        found, most = data.draw(segments(of)), data.draw(rooms(of))
        whole = lk.MaskedCollator(max_length=WHOLE).encode(found, of.tokenizer, delimited=False)
        row = encoded(lk.MaskedCollator(max_length=most), found, of)
        assume(row is not None)

        assert len(row) <= most
        assert len(row) + row.n_cut == len(whole)
        assert is_subsequence(row.input_ids, whole.input_ids)
        assert of.acting(learned(row)) == []


def is_subsequence(part, whole):
    rest = iter(whole.tolist())
    return all(token in rest for token in part.tolist())


class TestABatch:
    @holds
    @given(kinds, st.data(), st.integers(1, 9), st.booleans())
    def test_keeps_every_row_as_it_is(self, of, data, multiple, pad_is_eos):
        collator = lk.CausalCollator(max_length=24, pad_to_multiple_of=multiple)
        made = [
            encoded(collator, data.draw(segments(of)), of)
            for _ in range(data.draw(st.integers(1, 5)))
        ]
        rows = [row for row in made if row is not None]
        assume(rows)
        batch = collator.collate(rows, of.tokenizer.eos_id if pad_is_eos else 0)

        assert batch["input_ids"].shape == batch["labels"].shape
        assert batch["input_ids"].shape[1] % multiple == 0
        for index, row in enumerate(rows):
            filled = batch["attention_mask"][index] == 1
            assert batch["input_ids"][index][filled].tolist() == row.input_ids.tolist()
            assert batch["labels"][index][filled].tolist() == row.labels.tolist()
            assert (batch["labels"][index][~filled] == IGNORE).all()

    @holds
    @given(kinds, st.data(), st.integers(0, 3))
    def test_of_packed_rows_keeps_every_learned_token(self, of, data, epoch):
        collator = lk.CausalCollator(max_length=24, pack=True)
        made = [
            encoded(collator, data.draw(segments(of)), of)
            for _ in range(data.draw(st.integers(1, 8)))
        ]
        rows = [row for row in made if row is not None]
        assume(rows)
        assume(any(row.n_learned for row in rows))
        feed = collator.feed(rows, of.tokenizer).epoch(epoch)
        drawn = [feed.draw(i, np.random.default_rng(0)) for i in range(len(feed))]
        batch = collator.collate(drawn, 0)
        # A row's first token has nothing to be predicted from, so it is not learned.
        expected = [t for row in rows for t in row.labels[1:].tolist() if t != IGNORE]
        found = batch["labels"][batch["labels"] != IGNORE].tolist()
        kept = [row for row in rows if row.n_learned]

        assert sorted(found) == sorted(expected)
        assert sum(row.n_learned for row in kept) == len(found)
        assert (batch["labels"][batch["position_ids"] == 0] == IGNORE).all()

    @holds
    @given(kinds, st.data(), st.integers(1, 9))
    def test_of_sources_and_targets_keeps_both(self, of, data, multiple):
        collator = lk.Seq2SeqCollator(
            max_source_length=24, max_target_length=16, pad_to_multiple_of=multiple
        )
        drawn = [encoded(collator, data.draw(segments(of)), of) for _ in range(3)]
        rows = [row for row in drawn if row is not None]
        assume(rows)
        batch = collator.collate(rows, of.tokenizer.eos_id)

        for index, row in enumerate(rows):
            filled = batch["attention_mask"][index] == 1
            assert batch["input_ids"][index][filled].tolist() == row.input_ids.tolist()
            assert batch["labels"][index][: len(row.labels)].tolist() == row.labels.tolist()
            assert (batch["labels"][index][len(row.labels) :] == IGNORE).all()


CHATTY = [name for name in KINDS if kind(name).tokenizer.token_to_id("<|im_end|>") is not None]


@st.composite
def conversations(draw):
    """Return a kind, a way to learn, and messages of which the last is an answer."""
    of = kind(draw(st.sampled_from(CHATTY)))
    roles = draw(st.lists(st.sampled_from(["user", "assistant", "system"]), min_size=1, max_size=5))
    messages = [
        {"role": role, "content": readable(of, draw(texts))} for role in (*roles, "assistant")
    ]
    return of, draw(st.sampled_from(["assistant", "last", "all"])), messages


class TestAConversation:
    @staticmethod
    def task(learn):
        return task(lk.Chat(template="chatml", learn=learn), lk.CausalCollator(max_length=WHOLE))

    @holds
    @given(conversations())
    def test_begins_with_its_prompt(self, drawn):
        of, learn, messages = drawn
        row = encode(self.task(learn), [{"messages": messages}], of.tokenizer)[-1]
        asked = prompt_ids(self.task(learn), {"messages": messages}, of.tokenizer)

        assert row.input_ids[: len(asked)].tolist() == asked.tolist()

    @holds
    @given(conversations())
    def test_learns_its_answers_and_the_end_of_each_once(self, drawn):
        of, learn, messages = drawn
        assume(learn != "all")
        end = of.tokenizer.token_to_id("<|im_end|>")
        answers = [m["content"] for m in messages if m["role"] == "assistant"]
        answers = answers[-1:] if learn == "last" else answers
        rows = encode(self.task(learn), [{"messages": messages}], of.tokenizer)
        found = [run for row in rows for run in runs(row)]

        assert len(found) == len(answers)
        for run, answer in zip(found, answers, strict=True):
            assert run.count(end) == 1
            assert run[-1] == end
            if of.knows(answer) and not any(m.text in answer for m in of.tokenizer.marks):
                assert of.same(of.tokenizer.decode(run), answer)

    @holds
    @given(conversations())
    def test_has_the_turns_that_it_has_whatever_is_said(self, drawn):
        of, learn, messages = drawn
        said = [m["content"] for m in messages if m["role"] == "assistant"]
        assume(not any(mark.text in text for mark in of.tokenizer.marks for text in said))
        innocent = [{**message, "content": "a"} for message in messages]
        made = self.task(learn)
        row, other = (
            encode(made, [{"messages": m}], of.tokenizer)[-1] for m in (messages, innocent)
        )

        assert of.acting(row.input_ids) == of.acting(other.input_ids)

    @holds
    @given(conversations())
    def test_is_the_same_after_a_trip_of_its_task_through_json(self, drawn):
        of, learn, messages = drawn
        made = self.task(learn)
        again = from_json(to_json(made), Task)
        rows = [encode(t, [{"messages": messages}], of.tokenizer)[-1] for t in (made, again)]

        assert again == made
        assert rows[0].input_ids.tolist() == rows[1].input_ids.tolist()
        assert rows[0].labels.tolist() == rows[1].labels.tolist()
