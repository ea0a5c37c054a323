"""A task that converses: turns that are answered, edited and written again."""

import contextlib

import pytest
from runtime.toybundle import write_bundle

from lmkit.serve.app import make_app
from lmkit.serve.models import Models
from serve.conftest import CHAT, running

expect = pytest.importorskip("playwright.sync_api").expect


@pytest.fixture
def answered(models):
    """Return what the model answers to turns, which begin with the user's."""

    def answer(*contents, system=None):
        roles = ("user", "assistant")
        turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
        told = [] if system is None else [{"role": "system", "content": system}]
        return models["chat"].model({"messages": told + turns}, max_new_tokens=3).value

    return answer


@pytest.fixture
def chat(visit):
    """A conversation in which an answer has three tokens, since the toy's context has 64."""
    with visit("chat") as tab:
        tab.locator(".options > summary").click()
        tab.get_by_label("Most new tokens").fill("3")
        yield tab


def say(tab, text):
    tab.get_by_role("textbox", name="Message", exact=True).fill(text)
    tab.keyboard.press("Enter")


def log(tab, *turns):
    """Wait until the conversation has these turns, all written."""
    expect(tab.locator(".turn .said:visible")).to_have_text(list(turns))
    expect(tab.locator(".turn.model .facts")).to_have_count(len(turns) // 2)


def test_the_sample_waits_to_be_sent(chat, answered):
    expect(chat.get_by_role("textbox", name="Message", exact=True)).to_have_value("안녕")
    chat.get_by_role("button", name="Send").click()

    log(chat, "안녕", answered("안녕"))


def test_a_sample_of_parts_and_tools_is_shown_in_words_and_sent_whole(visit, tmp_path):
    call = {"type": "function", "function": {"name": "find", "arguments": {"what": "빵"}}}
    before = [
        {"role": "user", "content": [{"type": "text", "text": "빵"}]},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "있음", "name": "find"},
        {"role": "assistant", "content": "네"},
    ]
    sample = [*before, {"role": "user", "content": [{"type": "text", "text": "줘"}]}]
    bundle = write_bundle(tmp_path / "tools", task=CHAT, record={"messages": sample})
    sent = []
    opened = contextlib.closing(Models.open([bundle], verify=False))
    with opened as models, running(make_app(models)) as url, visit("chat", at=url) as tab:
        tab.on("request", lambda request: sent.append(request.post_data_json))
        expect(tab.locator(".turn .said")).to_have_text(["빵", "", "있음", "네"])
        tab.get_by_role("button", name="Send").click()
        expect(tab.locator(".turn.model .facts")).to_have_count(1)

    assert sent[0]["messages"] == [*before, {"role": "user", "content": "줘"}]


def test_a_turn_follows_from_those_before(chat, answered):
    say(chat, "one")
    log(chat, "one", first := answered("one"))
    say(chat, "two")

    log(chat, "one", first, "two", answered("one", first, "two"))


def test_a_system_message_comes_first(chat, answered):
    chat.locator("summary", has_text="System message").click()
    chat.get_by_role("textbox", name="System message").fill("Be kind.")
    say(chat, "one")

    log(chat, "one", answered("one", system="Be kind."))


def test_the_prompt_shows_the_conversation_with_what_is_typed(chat):
    say(chat, "one")
    expect(chat.locator(".turn.model .facts")).to_have_count(1)
    chat.get_by_role("textbox", name="Message", exact=True).fill("two")

    expect(chat.locator(".tokens")).to_contain_text("two")
    own = "".join(chat.locator(".tokens .own").all_inner_texts())
    assert own.startswith("one")
    assert own.endswith("two")


def test_an_edited_question_is_asked_anew(chat, answered):
    say(chat, "one")
    log(chat, "one", answered("one"))
    say(chat, "two")
    expect(chat.locator(".turn.model .facts")).to_have_count(2)
    chat.locator(".turn").first.get_by_role("button", name="Edit").click()
    chat.get_by_role("textbox", name="Edit").fill("three")
    chat.get_by_role("button", name="Save and send").click()

    log(chat, "three", answered("three"))


def test_an_edited_answer_stands(chat, answered):
    say(chat, "one")
    log(chat, "one", answered("one"))
    chat.locator(".turn.model").get_by_role("button", name="Edit").click()
    chat.get_by_role("textbox", name="Edit").fill("네.")
    chat.keyboard.press("Control+Enter")
    expect(chat.locator(".turn.model .said")).to_have_text("네.")
    say(chat, "two")

    expect(chat.locator(".turn .said")).to_have_text(
        ["one", "네.", "two", answered("one", "네.", "two")]
    )


def test_escape_leaves_an_edit_as_it_was(chat, answered):
    say(chat, "one")
    log(chat, "one", answer := answered("one"))
    chat.locator(".turn.model").get_by_role("button", name="Edit").click()
    chat.get_by_role("textbox", name="Edit").fill("other")
    chat.keyboard.press("Escape")

    log(chat, "one", answer)
    expect(chat.locator(".turn.model").get_by_role("button", name="Edit")).to_be_focused()


def test_an_answer_is_written_again_with_other_options(chat, answered, models):
    say(chat, "one")
    log(chat, "one", answered("one"))
    chat.get_by_label("Most new tokens").fill("5")
    chat.get_by_role("button", name="Write again").click()

    messages = [{"role": "user", "content": "one"}]
    log(chat, "one", models["chat"].model({"messages": messages}, max_new_tokens=5).value)


def test_a_new_conversation_knows_nothing_of_the_last(chat, answered):
    say(chat, "one")
    log(chat, "one", answered("one"))
    chat.get_by_role("button", name="New chat").click()
    say(chat, "two")

    log(chat, "two", answered("two"))
    expect(chat.locator(".entry")).to_have_count(2)


def test_where_nothing_was_said_there_is_no_prompt_and_no_error(chat):
    say(chat, "one")
    expect(chat.locator(".tokens")).to_contain_text("one")
    chat.get_by_role("button", name="New chat").click()

    expect(chat.get_by_text("to see the prompt")).to_be_visible()
    chat.get_by_role("button", name="한국어").click()
    expect(chat.locator(".count")).to_have_text("")


def test_an_old_conversation_goes_on(chat, answered):
    say(chat, "one")
    log(chat, "one", first := answered("one"))
    chat.get_by_role("button", name="New chat").click()
    chat.locator(".entry", has_text="one").click()
    log(chat, "one", first)
    say(chat, "two")

    log(chat, "one", first, "two", answered("one", first, "two"))
    expect(chat.locator(".entry")).to_have_count(1)


def test_a_new_conversation_takes_nothing_from_the_answer_that_it_ends(visit, slow):
    with visit("chat", at=slow[1]) as tab:
        say(tab, "one")
        expect(tab.locator(".turn.model .said")).not_to_have_text("")
        tab.get_by_role("button", name="New chat").click()
        expect(tab.locator(".entry")).to_have_count(1)

        expect(tab.locator(".turn")).to_have_count(0)
        expect(tab.locator(".entry .entry-asked")).to_have_text("one")


def test_an_old_conversation_takes_nothing_from_the_answer_that_it_ends(visit, slow):
    slow[0].seconds = 0
    with visit("chat", at=slow[1]) as tab:
        say(tab, "one")
        expect(tab.locator(".turn.model .facts")).to_have_count(1)
        turns = tab.locator(".turn .said").all_inner_texts()
        tab.get_by_role("button", name="New chat").click()
        slow[0].seconds = 1.5
        say(tab, "two")
        expect(tab.locator(".turn.model .said")).not_to_have_text("")
        tab.locator(".entry").click()

        expect(tab.locator(".entry")).to_have_count(2)
        expect(tab.locator(".turn .said:visible")).to_have_text(turns)
        expect(tab.locator(".entry .entry-asked")).to_have_text(["two", "one"])


def test_enter_that_ends_a_hangul_syllable_sends_nothing(chat):
    field = chat.get_by_role("textbox", name="Message", exact=True)
    field.dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    expect(chat.locator(".turn")).to_have_count(0)

    field.dispatch_event("keydown", {"key": "Enter", "isComposing": False})
    expect(chat.locator(".turn.model .facts")).to_have_count(1)


def test_shift_enter_breaks_the_line(chat):
    field = chat.get_by_role("textbox", name="Message", exact=True)
    field.fill("one")
    field.press("Shift+Enter")
    chat.keyboard.type("two")

    expect(field).to_have_value("one\ntwo")
    expect(chat.locator(".turn")).to_have_count(0)


def test_a_turn_that_is_refused_can_be_tried_again(visit):
    with visit("chat", expects=("400",)) as tab:
        say(tab, "길다 " * 20)
        tab.get_by_role("alert").filter(has_text="64").wait_for()
        tab.get_by_role("button", name="Edit").click()
        tab.get_by_role("textbox", name="Edit").fill("짧다")
        tab.keyboard.press("Control+Enter")

        expect(tab.locator(".turn.model .facts")).to_have_count(1)
