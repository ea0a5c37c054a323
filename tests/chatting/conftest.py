import io

import attrs
import pytest
from runtime.toybundle import toy_tokenizer

import lmkit as lk
from lmkit.chatting.conversation import Conversation
from lmkit.chatting.dialogue import Dialogue
from lmkit.chatting.lines import PipeLines
from lmkit.chatting.screen import Screen
from lmkit.chatting.talk import Talk
from lmkit.decoding import Answer, Usage
from lmkit.encoding import fitting_prompt

CHAT = lk.Task(
    name="chat",
    formatter=lk.Chat(template="chatml"),
    collator=lk.CausalCollator(max_length=4096),
    decoder=lk.TextDecoder(),
    generation=lk.Generation(max_new_tokens=8),
)
QA = CHAT.evolve(name="qa", formatter=lk.context("Q: {prompt}\nA:") + lk.target(" {completion}"))


class Counter:
    """An answerer that numbers its answers, and tells them word by word."""

    def __init__(self, task=CHAT, context_length=4096, says=" {}번째 답. \n"):
        self.task = task
        self.tokenizer = toy_tokenizer()
        self.asked = []
        self.options = []
        self._most = context_length
        self._says = says

    def prompt(self, record, index=0):
        return fitting_prompt(self.task, record, self.tokenizer, most=self._most, index=index)

    def room(self, prompt):
        return self._most - len(prompt)

    def __call__(self, record, **options):
        self.asked.append(record)
        self.options.append(options)
        text = self._says.format(len(self.asked))
        return self._answer(record, text, options)

    def stream(self, record, **options):
        answer = self(record, **options)
        yield from answer.text
        return answer

    def _answer(self, record, text, options):
        prompt = self.prompt(record)
        most = min(self.task.generation.override(**options).max_new_tokens, self.room(prompt))
        return Answer(
            value=self.task.decoder.read(text[:most]),
            text=text[:most],
            finish_reason="length" if most < len(text) else "stop",
            usage=Usage(prompt_tokens=len(prompt), completion_tokens=min(most, len(text) + 1)),
        )

    with_task = batch = log_probs = score = None


@attrs.define
class Held:
    """A dialogue that was held: its parts, and what was shown."""

    dialogue: Dialogue
    out: str
    err: str

    @property
    def messages(self):
        return [message["content"] for message in self.dialogue.talk.conversation.messages]


@pytest.fixture
def hold(capsys):
    """Return a function that says lines to a model and returns the dialogue."""

    def hold(*lines, model=None, system=None, trims=False, **settings):
        model = model or Counter()
        said = "".join(f"{line}\n" for line in lines).encode()
        talk = Talk(
            model=model, conversation=Conversation.about(model.task, system=system), trims=trims
        )
        dialogue = Dialogue(
            talk=talk,
            lines=PipeLines(io.BytesIO(said)),
            screen=Screen(terminal=False, colour=False),
            show=lambda reply: print(reply.answer.value),
            **settings,
        )
        dialogue.run()
        shown = capsys.readouterr()
        return Held(dialogue, shown.out, shown.err)

    return hold
