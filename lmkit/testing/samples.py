"""Records to try a task on: a few of each kind, in Korean and English, and one made for a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lmkit.decoding import Chooser
from lmkit.errors import UnknownName
from lmkit.family import Family
from lmkit.renaming import messages_column
from lmkit.task import Task

_ASKED = {
    "What is the capital of Korea?": "Seoul.",
    "대한민국의 수도는 어디인가요?": "서울입니다.",
    "How many legs has a spider?": "Eight.",
    "거미의 다리는 몇 개인가요?": "여덟 개입니다.",
    "Which month has 28 days?": "Every month has.",
    "바다는 왜 짠가요?": "강물이 소금을 실어 오기 때문입니다.",
    "What do bees make?": "Honey, and wax.",
    "가장 높은 산은 무엇인가요?": "에베레스트산입니다.",
    "Who wrote Hamlet?": "William Shakespeare.",
    "한글은 누가 만들었나요?": "세종대왕이 만들었습니다.",
}
_PROVERBS = (
    "Many hands make light work.",
    "가는 말이 고와야 오는 말이 곱다.",
    "Still waters run deep.",
    "원숭이도 나무에서 떨어진다.",
    "A watched pot never boils.",
    "천 리 길도 한 걸음부터 시작한다.",
    "Too many cooks spoil the broth.",
    "낮말은 새가 듣고 밤말은 쥐가 듣는다.",
    "Better late than never.",
    "소 잃고 외양간 고친다.",
)
_JUDGED = {
    "The bread was still warm. Wonderful!": "Yes",
    "주문한 지 일주일인데 아직도 안 왔어요.": "No",
    "Best noodles in town, thank you.": "Yes",
    "방이 너무 추워서 잠을 못 잤어요.": "No",
    "직원분이 정말 친절하셨어요.": "Yes",
    "The parcel came with a broken corner.": "No",
    "색이 사진보다 더 예뻐요.": "Yes",
    "The line was busy all morning.": "No",
    "다음에도 꼭 다시 올게요.": "Yes",
    "Nobody told us about the delay.": "No",
}


def _chats() -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": answer},
            ]
        }
        for asked, answer in _ASKED.items()
    ]


_KINDS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "causal": lambda: [{"prompt": q, "completion": a} for q, a in _ASKED.items()],
    "masked": lambda: [{"text": text} for text in _PROVERBS],
    "seq2seq": lambda: [{"article": q, "summary": a} for q, a in _ASKED.items()],
    "labels": lambda: [
        {"text": text, "question": "Is the writer content?", "answer": label}
        for text, label in _JUDGED.items()
    ],
    "chat": _chats,
    "text": lambda: [{"text": text} for text in _PROVERBS],
    "instructions": lambda: [
        {"instruction": q, "input": "" if place % 2 else "in a word", "output": a}
        for place, (q, a) in enumerate(_ASKED.items())
    ],
}


def sample_records(kind: Family | str) -> list[dict[str, Any]]:
    """Return ten records, in Korean and English.

    Args:
        kind: `causal` (columns prompt and completion), `masked` or `text` (text), `seq2seq` (article
            and summary), `labels` (text, question, answer), `chat` (messages) or `instructions`
            (instruction, input, output): the columns of the built-in tasks.
    Raises:
        UnknownName: there is no such kind.

    >>> sample_records("masked")[0]
    {'text': 'Many hands make light work.'}
    """
    if str(kind) not in _KINDS:
        raise UnknownName("kind of records", str(kind), _KINDS)
    return _KINDS[str(kind)]()


def sample_record(task: Task) -> dict[str, Any]:
    """Return a record that fits a task, for showing it: each column holds words about itself."""
    messages = messages_column(task.formatter)
    if messages is not None:
        return {
            messages: [
                {"role": "user", "content": "안녕하세요?"},
                {"role": "assistant", "content": "네, 안녕하세요!"},
            ]
        }
    words = ", 몇 마디 and a few words" if task.family is Family.MASKED else ""  # some to hide
    record = {column: f"<{column}>{words}" for column in task.columns}
    if isinstance(task.decoder, Chooser):
        record[task.answer_column] = task.decoder.labels[0]
    return record
