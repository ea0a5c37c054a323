"""Hold a conversation: read a message, obey it or have it answered, and show what came."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from lmkit.chatting.commands import COMMANDS, parse, settings
from lmkit.chatting.conversation import NO_SYSTEM
from lmkit.chatting.lines import Lines, read_message, read_paste
from lmkit.chatting.screen import Screen
from lmkit.chatting.talk import INTERRUPTED, Reply, Talk
from lmkit.errors import LmkitError, PromptTooLong, UnknownOption
from lmkit.files import write_atomically

FULL = "begin anew with /clear, take a turn back with /undo, or leave out the oldest with /trim (--trim)"


class NothingSaid(Exception):
    """An answer was stopped before its first word, so that there is none to keep."""


@attrs.define(kw_only=True)
class Dialogue:
    """What is typed meets what answers.

    Attributes:
        talk: the model and the conversation.
        lines: where what is typed comes from.
        screen: where it is shown.
        show: prints an answer that is not shown as it comes.
        pieces: whether text is shown as it comes; labels and fills never are.
        stats: whether to tell how fast each answer came.
        stays: whether a mistake is told and the conversation goes on, as somebody at a terminal
            wants; else it is raised.
        ours: the file that the conversation came from or was saved in, which may be written anew.
    """

    talk: Talk
    lines: Lines
    screen: Screen
    show: Callable[[Reply], None]
    pieces: bool = True
    stats: bool = False
    stays: bool = False
    ours: Path | None = None
    _asks_to_leave: bool = False

    def run(self) -> None:
        """Read, and answer, until there is no more to read.

        Raises:
            LmkitError: something went wrong, the context being full included, and `stays` is not set.
            KeyboardInterrupt: Ctrl-C; where `stays` is set, twice in a row while a message is awaited.
        """
        while True:
            try:
                text = self._read()
                if text is None or not self._obey(text):
                    return
            except LmkitError as error:
                told = self._told(error)
                if not self.stays:
                    raise told from error.__cause__
                self.screen.error(str(told))
            except NothingSaid:
                self.screen.note("\n(stopped before the first word: the conversation is as it was)")
            except KeyboardInterrupt:
                if not self.stays or self._asks_to_leave:
                    raise
                self._asks_to_leave = True
                self.screen.note("\n(Ctrl-C again, Ctrl-D or /exit ends the chat)")

    def _read(self, prefill: str = "") -> str | None:
        text = read_message(self.lines, prefill)
        self._asks_to_leave = False
        if text is None and self.stays:
            self.screen.note("")  # Ctrl-D leaves the terminal in the middle of a line
        return text

    def _obey(self, text: str) -> bool:
        """Do what a message wants; return whether the conversation goes on."""
        found = parse(text)
        if isinstance(found, str):
            if found.strip():
                self._say(found)
        elif found.name == "exit":
            return False
        else:
            getattr(self, f"_{found.name}")(found.rest)
        return True

    def _say(self, text: str) -> None:
        conversation = self.talk.conversation
        before = len(conversation.messages), conversation.start
        conversation.say(text)
        try:
            self._answer()
        except BaseException:
            del conversation.messages[before[0] :]
            conversation.start = before[1]
            raise

    def _answer(self) -> None:
        if left_out := self.talk.trim():
            turns = "turn is" if left_out == 1 else f"{left_out} turns are"
            self.screen.note(f"(the context is full: the oldest {turns} left out from now on)")
        wrote = False

        def write(piece: str) -> None:
            nonlocal wrote
            if self.pieces:
                self.screen.piece(piece)
                wrote = wrote or bool(piece)

        try:
            with _stopping(self.stays) as stopped:
                reply = self.talk.reply(write, stopped)
        except BaseException:
            if wrote:  # what is told next begins a line of its own
                self.screen.line("")
            raise
        if reply.answer.finish_reason == INTERRUPTED and not reply.answer.text.strip():
            raise NothingSaid
        if self.pieces and self.talk.writes:
            self.screen.line("")
        else:
            self.show(reply)
        self._comment(reply)

    def _comment(self, reply: Reply) -> None:
        answer = reply.answer
        if answer.finish_reason == INTERRUPTED:
            self.screen.note("(stopped; what came is kept)")
        elif reply.full:
            self.screen.note(f"(the answer ends here because the context is full: {FULL})")
        elif answer.finish_reason == "length" and self.stays:
            most = answer.usage.completion_tokens
            self.screen.note(f"(the answer ends here after {most} tokens: /set max_new_tokens=N)")
        if self.stats:
            self.screen.note(f"({_figures(reply)})")

    def _edit(self, rest: str) -> None:
        conversation = self.talk.conversation
        before = conversation.asked()
        if before is None:
            raise LmkitError("there is no message to edit yet")
        text = rest or self._read(before)
        if not text or not text.strip():
            self.screen.note("(nothing was changed)")
            return
        kept = list(conversation.messages), conversation.start
        conversation.undo()
        self._or_back(kept, lambda: self._say(text))

    def _retry(self, rest: str) -> None:
        conversation = self.talk.conversation
        kept = list(conversation.messages), conversation.start
        if not conversation.take_back_answer():
            raise LmkitError("there is no message to answer yet")
        generation = self.talk.model.task.generation.override(**self.talk.options)
        if self.talk.writes and generation.temperature == 0 and self.stays:
            self.screen.note("(greedy answers stay the same; /set temperature=0.8 varies them)")
        self._or_back(kept, self._answer)

    def _or_back(self, kept: tuple[list[Any], int], work: Callable[[], None]) -> None:
        """Do something; if it fails, the conversation is as it was."""
        conversation = self.talk.conversation
        try:
            work()
        except BaseException:
            conversation.messages, conversation.start = kept
            raise

    def _undo(self, rest: str) -> None:
        text = self.talk.conversation.undo()
        if text is None:
            raise LmkitError("there is nothing to take back")
        self.screen.note(f"(taken back: {text})")

    def _clear(self, rest: str) -> None:
        self.talk.conversation.clear()
        self.screen.note("(all messages are forgotten)")

    def _system(self, rest: str) -> None:
        conversation = self.talk.conversation
        if not conversation.remembers:
            raise LmkitError(NO_SYSTEM.format(self.talk.model.task.name))
        if rest:
            conversation.system = None if rest == "-" else rest
        now = conversation.system
        self.screen.note("(no system message of this chat's)" if now is None else f"system: {now}")

    def _set(self, rest: str) -> None:
        changes = settings(rest)
        options = {**self.talk.options, **changes}
        options = {name: given for name, given in options.items() if given is not None}
        own = self.talk.model.task.generation
        known = attrs.fields_dict(type(own))
        for name in changes:
            if name not in known:
                raise UnknownOption("Generation", name, known)
        generation = own.override(**options)
        self.talk.options = options
        rows = []
        for name in known:
            now, default = getattr(generation, name), getattr(own, name)
            if name in changes or not changes:
                rows.append(
                    (name, f"{now}" if now == default else f"{now}  (the task's: {default})")
                )
        self.screen.table(rows)

    def _trim(self, rest: str) -> None:
        if not self.talk.conversation.remembers:
            raise LmkitError(
                f"the task '{self.talk.model.task.name}' shows the model one message only"
            )
        self.talk.trims = True
        self.screen.note("(the oldest turns are left out when the context is full)")

    def _prompt(self, rest: str) -> None:
        if not self.talk.conversation.messages:
            raise LmkitError("the model was given nothing yet; say something first")
        model, record = self.talk.model, self.talk.conversation.record
        ids = model.prompt(record).tolist()
        runs = itertools.groupby(ids, model.tokenizer.is_control)
        texts = [(model.tokenizer.decode(run, skip_control=False), own) for own, run in runs]
        self.screen.prompt(texts, len(ids))

    def _paste(self, rest: str) -> None:
        text = read_paste(self.lines)
        if text.strip():
            self._say(text)

    def _save(self, rest: str) -> None:
        path = _path(rest, "save")
        if os.path.exists(path) and path.resolve() != self.ours:
            raise LmkitError(
                f"'{path}' is there already and is not this chat's; choose another file"
            )
        if not self.talk.conversation.messages:
            raise LmkitError("there is nothing to save yet")
        write_atomically(path, self.talk.conversation.as_lines())
        self.ours = path.resolve()
        self.screen.note(f"(saved in {path})")

    def _load(self, rest: str) -> None:
        path = _path(rest, "load")
        conversation = self.talk.conversation
        conversation.load(str(path))
        self.ours = own_file(path)
        turns = "1 turn" if conversation.n_turns == 1 else f"{conversation.n_turns} turns"
        waits = "; /retry answers the last one" if conversation.waits else ""
        self.screen.note(f"({turns} from {path}{waits})")

    def _told(self, error: LmkitError) -> LmkitError:
        """Return an error in the words of a conversation, which has no records to shorten."""
        if not isinstance(error, PromptTooLong):
            return error
        alone = not self.talk.conversation.messages
        whose = "the message alone" if alone else "with this message the conversation"
        remedy = "say it shorter" if alone else FULL
        return LmkitError(
            f"{whose} has {error.prompt_tokens} tokens and the model's context holds "
            f"{error.context_length}, the answer included, so it was not said; {remedy}"
        )

    def _help(self, rest: str) -> None:
        self.screen.table(
            [(f"/{name} {follows}", told) for name, (follows, told) in COMMANDS.items()]
        )
        self.screen.note(
            "A line that ends in \\ goes on in the next one. Ctrl-C stops an answer and keeps what came. "
            "A message that begins with / is typed with two."
        )


def own_file(path: Path) -> Path | None:
    """Return the file that a conversation was loaded from; None if it is one of several in a file."""
    return path.resolve() if path.is_file() else None


@contextlib.contextmanager
def _stopping(catches: bool) -> Iterator[Callable[[], bool]]:
    """Give what tells whether Ctrl-C was pressed; the second time it interrupts as ever."""
    pressed = False

    def note(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    if not catches or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _path(rest: str, name: str) -> Path:
    if not rest:
        raise LmkitError(f"/{name}: which file? Expected /{name} {COMMANDS[name][0]}")
    return Path(os.path.expanduser(rest))  # which leaves an unknown user's ~ as it is


def _figures(reply: Reply) -> str:
    usage = reply.answer.usage
    told = [f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"]
    if reply.seconds_to_first is not None:
        told.append(f"first after {reply.seconds_to_first:.2f} s")
    if reply.tokens_per_second is not None:
        told.append(f"then {reply.tokens_per_second:.1f} tokens/s")
    return ", ".join(told)
