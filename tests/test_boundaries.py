"""What stands at the seams of a row, for every kind of tokenizer and every kind of task."""

import unicodedata

import attrs
import numpy as np
import pytest
from kinds import BUILT, KINDS, kind

import lmkit as lk
from lmkit.encoding import IGNORE, encode, prompt_ids
from lmkit.tokenizing import Span

FAMILY = "👩\u200d👩\u200d👧\u200d👦"
JAMO = unicodedata.normalize("NFD", "질문")

SEAMS = {
    "a plain seam": ("Question", "answer"),
    "a seam inside a word": ("hel", "lo"),
    "an answer that begins with a space": ("Q:", " answer"),
    "an answer that begins with spaces": ("Q:", "   answer"),
    "an answer that begins with a newline": ("Q:", "\n\nanswer"),
    "an answer that begins with a tab": ("Q:", "\tanswer"),
    "a prompt that ends with a space": ("Q: ", "answer"),
    "a prompt that ends with a newline": ("Q:\n", "\nanswer"),
    "spaces on both sides": ("Q:  ", "  answer"),
    "an answer that ends with white space": ("Q:", "answer \n"),
    "an empty answer": ("Q:", ""),
    "an answer of spaces": ("Q:", "  "),
    "an answer of a newline": ("Q:", "\n"),
    "a prompt of a space": (" ", "answer"),
    "a prompt of white space": (" \n\t", "answer"),
    "a space without a break": ("a\u00a0", "\u00a0b"),
    "an ideographic space": ("영\u3000", "\u3000화"),
    "composed Hangul": ("영화는", "정말 좋았다"),
    "decomposed Hangul": (unicodedata.normalize("NFD", "영화"), unicodedata.normalize("NFD", "는")),
    "a seam inside a syllable": (JAMO[:-1], JAMO[-1] + "답"),
    "an emoji of several": (FAMILY, FAMILY),
    "a seam inside an emoji": (FAMILY[:2], FAMILY[2:]),
    "a joiner alone": ("\u200d", "\u200d"),
    "a zero-width space": ("a\u200b", "\u200bb"),
    "a variation selector": ("❤", "\ufe0f!"),
    "a flag": ("🇰", "🇷"),
    "a skin tone": ("👍", "\U0001f3fd"),
    "a combining mark": ("e", "\u0301\u0328"),
    "an accent that is a letter of its own": ("caf", "é"),
    "Arabic": ("السلام ", "عليكم"),
    "Hebrew with marks": ("שָׁל", "וֹם"),
    "a mark of direction": ("\u202eabc", "\u202c def"),
    "characters beyond the basic plane": ("𝔘𝔫", "𠜎𐍈"),
    "NUL": ("a\x00", "\x00b"),
    "control characters": ("a\x1b[0m\x07", "\x7f\x85b"),
    "an old line end": ("a\r", "\r\nb"),
    "a byte order mark": ("\ufeffa", "\ufeffb"),
    "a replacement character": ("a\ufffd", "\ufffdb"),
    "a character that is not assigned": ("\u0378", "\U000e01f0"),
    "a private character": ("\ue000", "\U000f0001"),
    "digits": ("12", "34"),
    "punctuation": ("don'", "t it, is it?"),
    "words that a normalizer takes apart": ("ﬁ½", "㎏…"),
    "braces": ("{x}", "{{y}}"),
    "an underscore that means a space": ("▁a▁", "▁b"),
    "a byte's name": ("<0x41>", "<0xEC>"),
    "a very long word": ("a" * 2000, "b" * 2000),
    "a very long word in Korean": ("영" * 500, "화" * 500),
    "a control token in halves": ("<|im_", "end|>"),
}


def task(formatter, collator):
    return lk.Task(name="t", formatter=formatter, collator=collator, decoder=lk.TextDecoder())


ANY_LENGTH = 100_000
QA = lk.context("{q}") + lk.target("{a}")
CAUSAL = task(QA, lk.CausalCollator(max_length=ANY_LENGTH))
PAIR = task(QA, lk.Seq2SeqCollator(max_source_length=ANY_LENGTH, max_target_length=ANY_LENGTH))
CHAT = task(lk.Chat(template="chatml"), lk.CausalCollator(max_length=ANY_LENGTH))
MASKED = lk.Task(
    name="m",
    formatter=lk.context("{text}"),
    collator=lk.MaskedCollator(max_length=ANY_LENGTH),
    decoder=lk.FillMaskDecoder(),
)


MASKED_NAMES = [name for name in KINDS if name in ("bert-base-uncased", "koelectra-wordpiece")]


def learned(row):
    return row.labels[row.labels != IGNORE]


def seams(of):
    """Return the seams that a kind can encode: some refuse characters that they have not learned."""
    if of.tokenizer.special.get("unk_token") is None and of.tokenizer.unknown_in("힣"):
        return {name: pair for name, pair in SEAMS.items() if of.knows(*pair)}
    return SEAMS


@pytest.fixture(scope="module", params=KINDS)
def of(request):
    return kind(request.param)


class TestAPromptAndAnAnswer:
    def test_the_prompt_is_a_prefix_of_the_row(self, of):
        for name, (q, a) in seams(of).items():
            if not of.tokenizer.opening_ids and not of.tokenizer.encode(q):
                continue  # nothing is left to continue, and the prompt is refused
            row = encode(CAUSAL, [{"q": q, "a": a}], of.tokenizer)[0]
            asked = prompt_ids(CAUSAL, {"q": q}, of.tokenizer)

            assert np.array_equal(row.input_ids[: len(asked)], asked), name
            assert (row.labels[: len(asked)] == IGNORE).all(), name
            assert np.array_equal(row.labels[len(asked) :], row.input_ids[len(asked) :]), name

    def test_the_row_and_what_is_learned_of_it_decode_to_the_text(self, of):
        for name, (q, a) in seams(of).items():
            row = encode(CAUSAL, [{"q": q, "a": a}], of.tokenizer)[0]
            if of.knows(q, a):
                assert of.same(of.tokenizer.decode(row.input_ids), q, a), name
                assert of.same(of.tokenizer.decode(learned(row)), a), name

    def test_the_end_is_learned_once(self, of):
        for name, (q, a) in seams(of).items():
            row = encode(CAUSAL, [{"q": q, "a": a}], of.tokenizer)[0]

            assert np.flatnonzero(row.labels == of.tokenizer.eos_id).tolist() == [len(row) - 1], (
                name
            )


class TestASourceAndATarget:
    def test_the_source_is_the_prompt(self, of):
        for name, (q, a) in seams(of).items():
            if not of.tokenizer.opening_ids + of.tokenizer.closing_ids and not of.tokenizer.encode(
                q
            ):
                continue
            row = encode(PAIR, [{"q": q, "a": a}], of.tokenizer)[0]

            assert np.array_equal(row.input_ids, prompt_ids(PAIR, {"q": q}, of.tokenizer)), name

    def test_both_decode_to_their_texts(self, of):
        for name, (q, a) in seams(of).items():
            if of.knows(q, a) and of.tokenizer.encode(q):
                row = encode(PAIR, [{"q": q, "a": a}], of.tokenizer)[0]

                assert of.same(of.tokenizer.decode(row.input_ids), q), name
                assert of.same(of.tokenizer.decode(row.labels), a), name

    def test_the_end_of_the_target_is_learned_once(self, of):
        for name, (q, a) in seams(of).items():
            if of.tokenizer.encode(q):
                labels = encode(PAIR, [{"q": q, "a": a}], of.tokenizer)[0].labels

                assert (labels == of.tokenizer.eos_id).sum() == 1, name


class TestAConversation:
    @staticmethod
    def messages(q, a):
        return {
            "messages": [
                {"role": "system", "content": q + a},
                {"role": "user", "content": q},
                {"role": "assistant", "content": a},
            ]
        }

    def test_the_prompt_is_a_prefix_of_the_row(self, of):
        for name, (q, a) in seams(of).items():
            record = self.messages(q, a)
            row = encode(CHAT, [record], of.tokenizer)[0]
            asked = prompt_ids(CHAT, record, of.tokenizer)

            assert np.array_equal(row.input_ids[: len(asked)], asked), name
            assert (row.labels[: len(asked)] == IGNORE).all(), name

    def test_what_is_learned_is_the_answer_and_its_end(self, of):
        end = of.tokenizer.token_to_id("<|im_end|>")
        ends, written = {of.tokenizer.eos_id, end}, "" if end is not None else "<|im_end|>\n"
        for name, (q, a) in seams(of).items():
            row = encode(CHAT, [self.messages(q, a)], of.tokenizer)[0]

            assert [i for i in learned(row) if i in ends] == [learned(row)[-1]], name
            if of.knows(q, a + written):
                assert of.same(of.tokenizer.decode(learned(row)), a + written), name


@pytest.fixture(scope="module", params=[*BUILT, *MASKED_NAMES])
def masked(request):
    of = kind(request.param)
    if of.tokenizer.mask_id is None:
        return attrs.evolve(of, tokenizer=of.tokenizer.with_special("mask_token", "<mask>"))
    return of


class TestAMaskedText:
    def test_decodes_to_the_text_wherever_it_may_be_hidden(self, masked):
        for name, (q, a) in seams(masked).items():
            if masked.knows(q + a):
                row = encode(MASKED, [{"text": q + a}], masked.tokenizer)[0]

                assert masked.same(masked.tokenizer.decode(learned(row)), q + a), name

    def test_is_framed_and_filled_in_its_prompt(self, masked):
        mask = masked.tokenizer.special["mask_token"]
        for name, (q, a) in seams(masked).items():
            ids = prompt_ids(MASKED, {"text": f"{q} {mask} {a}"}, masked.tokenizer).tolist()

            assert ids.count(masked.tokenizer.mask_id) == 1, name
            assert tuple(ids[: len(masked.tokenizer.opening_ids)]) == masked.tokenizer.opening_ids


def test_no_seam_is_lost_on_any_kind():
    """Those that skip unknown characters would otherwise pass by testing nothing."""
    for name in KINDS:
        known = [pair for pair in seams(kind(name)).values() if kind(name).knows(*pair)]

        assert len(known) >= 15 or name == "words", name


def test_owners_rise_where_plain_text_spells_a_control_token():
    found = kind("t5 of letters").tokenizer
    spans = [Span("<mask>"), Span("68\u2167\x1c\u2028  \n  y"), Span("<|im_start|>"), Span(" is a")]
    owners = found.owners(spans, opens=True)

    assert len(owners) == len(found.encode_spans(spans, opens=True))
    assert (owners[1:] >= owners[:-1]).all()
