"""A task's columns are filled, and its answer is shown: text as it comes, labels and fills as bars."""

import json
import re
import shutil
import subprocess
import sys
import time

import pytest

import lmkit as lk
from lmkit.serve.app import make_app
from serve.conftest import running
from serve.playground.conftest import SAYS

expect = pytest.importorskip("playwright.sync_api").expect

RECORD = {"prompt": "안녕하세요?"}
HARD = {"prompt": 'it\'s "2"?\n\\n $HOME `네`'}


def run(tab):
    tab.get_by_role("button", name="Run").click()
    tab.locator(".answer .facts").wait_for()


def texts(tab, selector):
    return tab.locator(selector).all_inner_texts()


def option(tab, name, value):
    tab.locator("summary", has_text="Options").first.click()
    tab.get_by_label(name, exact=True).fill(value)


def test_the_sample_is_filled_in_and_answered(visit):
    with visit("toy") as tab:
        filled = tab.get_by_label("prompt", exact=True).input_value()
        run(tab)

        assert filled == RECORD["prompt"]
        assert tab.locator(".answer .said").inner_text() == SAYS


def test_it_says_how_fast_the_answer_came(visit, models):
    usage = models["toy"].model(RECORD).usage
    with visit("toy") as tab:
        run(tab)
        facts = tab.locator(".answer .facts").inner_text().replace("\n", " ")

    assert re.search(r"[\d,.]+ tokens/s .*[\d.]+ m?s to first token", facts)
    assert f"{usage.completion_tokens} tokens written" in facts
    assert f"{usage.prompt_tokens} tokens read" in facts
    assert "Finished" in facts


def test_ctrl_enter_runs(visit):
    with visit("toy") as tab:
        tab.get_by_label("prompt", exact=True).press("Control+Enter")
        tab.locator(".answer .facts").wait_for()

        assert tab.locator(".answer .said").inner_text() == SAYS


def test_the_prompt_is_what_the_model_is_given(visit, models):
    served = models["toy"]
    expected = lk.prompt_ids(served.task, RECORD, served.tokenizer)
    with visit("toy") as tab:
        tab.locator(".tokens .t").first.wait_for()
        ids = tab.locator(".tokens .t").evaluate_all(
            "all => all.map(one => Number(one.dataset.id))"
        )
        own = "".join(texts(tab, ".tokens .own"))
        count = tab.locator(".count").inner_text()

    assert ids == expected.tolist()
    assert own == RECORD["prompt"]
    assert count == f"{len(expected)} of 64 tokens"


def test_the_prompt_follows_what_is_typed(visit):
    with visit("toy") as tab:
        tab.get_by_label("prompt", exact=True).fill("What is it?")
        expect(tab.locator(".tokens")).to_contain_text("What is it?")

        assert "".join(texts(tab, ".tokens .t")).replace("↵", "\n") == "Q: What is it?\nA:"


def test_a_control_token_that_was_typed_is_no_control_token(visit):
    with visit("toy") as tab:
        tab.get_by_label("prompt", exact=True).fill("<|endoftext|>")
        tab.locator(".tokens .own", has_text="<").first.wait_for()

        assert tab.locator(".tokens .control").count() == 0
        assert "".join(texts(tab, ".tokens .own")) == "<|endoftext|>"


def test_markup_stays_text(visit):
    evil = '<img src=x onerror="alert(1)">'
    with visit("toy") as tab:
        tab.get_by_label("prompt", exact=True).fill(evil)
        tab.locator(".tokens .own", has_text="<").first.wait_for()
        run(tab)

        assert "".join(texts(tab, ".tokens .own")) == evil
        assert tab.locator(".entry-asked").inner_text() == evil
        assert tab.locator("main img").count() == 0


def test_labels_have_bars(visit, models):
    answer = models["judge"].model(RECORD)
    with visit("judge") as tab:
        run(tab)
        names, shares = texts(tab, ".bars .name"), texts(tab, ".bars .n")
        verdict = tab.locator(".verdict").inner_text()
        widths = tab.locator(".meter i").evaluate_all("all => all.map(one => one.style.width)")

    ranked = sorted(answer.probabilities.items(), key=lambda item: -item[1])
    assert verdict == answer.value
    assert names == [label for label, _ in ranked]
    for (_, probability), share, width in zip(ranked, shares, widths, strict=True):
        assert float(share.strip("<>%")) == pytest.approx(100 * probability, abs=0.06)
        assert float(width.strip("%")) == pytest.approx(max(100 * probability, 0.4), abs=0.01)


def test_every_gap_has_its_fills(visit, models):
    ranked = models["mlm"].model({"text": "영화는 [MASK] 좋았다 [MASK]!"}).value
    with visit("mlm") as tab:
        run(tab)

        assert texts(tab, ".gaps h3") == ["Gap 1", "Gap 2"]
        assert texts(tab, ".fills .name") == [fill["token_str"] for gap in ranked for fill in gap]


def test_a_gap_can_be_put_in(visit):
    with visit("mlm") as tab:
        field = tab.get_by_label("text", exact=True)
        field.fill("영화는 좋았다")
        field.evaluate("field => field.setSelectionRange(4, 4)")
        tab.get_by_role("button", name="Insert [MASK]").click()
        run(tab)

        assert field.input_value() == "영화는 [MASK]좋았다"
        expect(tab.locator(".tokens .control", has_text="[MASK]")).to_have_count(1)
        assert tab.locator(".gaps h3").count() == 0  # one gap needs no number


def test_an_option_holds_for_the_run(visit):
    with visit("toy") as tab:
        option(tab, "Most new tokens", "3")
        run(tab)
        facts = tab.locator(".answer .facts").inner_text()

        assert "3 tokens\nwritten" in facts
        assert "Cut at the most new tokens" in facts


def test_stop_texts_are_given_one_a_line(visit):
    with visit("toy") as tab:
        option(tab, "Stop texts", "하세\n\\n")
        run(tab)

        assert tab.locator(".answer .said").inner_text() == "네, 안녕"


def test_changed_options_are_counted_and_go_back(visit):
    with visit("toy") as tab:
        option(tab, "Seed", "7")
        tab.get_by_label("Temperature", exact=True).fill("0.5")
        changed = tab.locator(".options > summary").inner_text()
        tab.get_by_role("button", name="Back to the task's own").click()

        assert "2 changed" in changed
        assert tab.get_by_label("Seed", exact=True).input_value() == ""


def test_a_refused_option_is_shown_where_it_stands(visit):
    with visit("toy", expects=("400",)) as tab:
        option(tab, "Temperature", "-1")
        tab.get_by_role("button", name="Run").click()
        tab.get_by_role("alert").filter(has_text="temperature").wait_for()

        field = tab.locator(".field", has=tab.get_by_label("Temperature", exact=True))
        expect(field.locator(".field-error")).to_contain_text("0")
        expect(field.locator("input")).to_be_focused()
        expect(field.locator("input")).to_have_attribute("aria-invalid", "true")


def test_a_refused_prompt_says_why_and_can_be_tried_again(visit):
    with visit("toy", expects=("400",)) as tab:
        field = tab.get_by_label("prompt", exact=True)
        field.fill("길다 " * 40)
        tab.get_by_role("button", name="Run").click()
        tab.get_by_role("alert").filter(has_text="64").wait_for()
        field.fill(RECORD["prompt"])
        tab.get_by_role("button", name="Try again").click()
        tab.locator(".answer .facts").wait_for()

        assert tab.locator(".answer .said").inner_text() == SAYS


def test_a_busy_server_is_asked_again_when_it_says(visit):
    busy = {
        "error": {"message": "8 wait", "type": "rate_limit_error", "param": None, "code": "busy"}
    }
    with visit("toy", expects=("429",)) as tab:
        tab.route(
            "**/v1/tasks/toy?*",
            lambda route: route.fulfill(status=429, headers={"retry-after": "1"}, json=busy),
            times=1,
        )
        tab.get_by_role("button", name="Run").click()
        waiting = tab.get_by_role("button", name="Try again in 1 s")
        waiting.wait_for()
        was_disabled = waiting.is_disabled()
        tab.get_by_role("button", name="Try again", exact=True).click()
        tab.locator(".answer .facts").wait_for()

        assert was_disabled
        assert tab.locator(".answer .said").inner_text() == SAYS


def eventually(holds, seconds=5):
    """Say whether something comes to hold."""
    last = time.monotonic() + seconds
    while not holds() and time.monotonic() < last:
        time.sleep(0.02)
    return holds()


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_a_run_can_be_stopped_and_keeps_what_came(visit, slow, how):
    app, url = slow
    with visit("toy", at=url) as tab:
        hung_up = app.hung_up
        tab.get_by_role("button", name="Run").click()
        tab.locator(".answer .said", has_text="네").wait_for()
        if how == "button":
            tab.get_by_role("button", name="Stop").click()
        else:
            tab.keyboard.press(how)
        tab.locator(".facts", has_text="You stopped it").wait_for()
        said = tab.locator(".answer .said").inner_text()
        expect(tab.get_by_role("button", name="Run")).to_be_enabled()

    assert said
    assert SAYS.startswith(said)
    assert eventually(lambda: app.hung_up == hung_up + 1)


def test_a_run_goes_on_behind_another_task(visit, slow):
    slow[0].seconds = 0.2
    with visit("toy", at=slow[1]) as tab:
        tab.get_by_role("button", name="Run").click()
        tab.get_by_role("link", name="judge").click()
        run(tab)
        tab.get_by_role("link", name="toy").click()
        tab.locator(".answer .facts").wait_for()

        assert tab.locator(".answer .said").inner_text() == SAYS


def test_a_connection_that_breaks_off_keeps_what_came(visit):
    piece = 'data: {"text": "네, "}\n\n'
    with visit("toy") as tab:
        tab.route(
            "**/v1/tasks/toy?*",
            lambda route: route.fulfill(content_type="text/event-stream", body=piece),
        )
        tab.get_by_role("button", name="Run").click()
        tab.get_by_role("alert").filter(has_text="broke off").wait_for()

        assert tab.locator(".answer .said").inner_text().strip() == "네,"


def test_a_server_that_is_gone_is_said_to_be(visit, models):
    with running(make_app(models)) as url:
        page = visit("toy", at=url, expects=("ERR_",))
        tab = page.__enter__()
    tab.get_by_role("button", name="Run").click()
    tab.get_by_role("alert").filter(has_text="does not answer").wait_for()

    assert "No answer" in tab.locator("#state").inner_text()
    page.__exit__(None, None, None)


def copied(tab, language):
    """Return the call that the page writes for the record `HARD`, seven tokens long."""
    tab.get_by_label("prompt", exact=True).fill(HARD["prompt"])
    option(tab, "Most new tokens", "7")
    tab.get_by_role("tab", name="In code").click()
    tab.get_by_role("button", name=language, exact=True).click()
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.locator(".inspect").get_by_role("button", name="Copy").click()
    tab.get_by_role("button", name="Copied").wait_for()
    text = tab.evaluate("navigator.clipboard.readText()")
    assert text == tab.locator("pre").text_content()
    return text


def test_the_curl_line_answers_the_same(visit, models):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with visit("toy") as tab:
        command = copied(tab, "curl")
        done = subprocess.run(command, shell=True, capture_output=True, timeout=30, check=True)

    answer = models["toy"].model(HARD, max_new_tokens=7)
    assert json.loads(done.stdout)["text"] == answer.text


@pytest.mark.parametrize(("language", "said"), [("Python", "value"), ("OpenAI client", "text")])
def test_the_code_answers_the_same(visit, models, language, said):
    with visit("toy") as tab:
        program = copied(tab, language)
        done = subprocess.run(
            [sys.executable, "-X", "utf8", "-c", program],
            capture_output=True,
            timeout=60,
            check=True,
        )

    answer = models["toy"].model(HARD, max_new_tokens=7)
    assert done.stdout.decode().rstrip("\n") == getattr(answer, said).rstrip("\n")


def test_code_has_options_in_the_types_that_the_server_takes(visit):
    with visit("toy") as tab:
        option(tab, "Temperature", "0")
        tab.locator("summary", has_text="More options").click()
        tab.get_by_label("early_stopping").select_option("true")
        tab.get_by_role("tab", name="In code").click()
        tab.get_by_role("button", name="OpenAI client").click()

        written = tab.locator("pre").inner_text()
        assert "temperature=0," in written
        assert 'extra_body={"early_stopping": True},' in written


def test_the_session_is_listed_and_opens_again(visit):
    with visit("toy") as tab:
        run(tab)
        tab.get_by_role("link", name="judge").click()
        run(tab)
        tab.reload()
        tab.locator("main > *").first.wait_for()
        listed = texts(tab, ".entry b")
        tab.locator(".entry", has_text="toy").click()

        assert listed == ["judge", "toy"]
        assert tab.locator("h1").inner_text() == "toy"
        assert tab.locator(".answer .said").inner_text() == SAYS

        tab.get_by_role("button", name="Clear").click()
        assert tab.locator("#history").is_hidden()


def test_an_old_run_is_shown_in_place_of_the_one_that_it_ends(visit, slow):
    slow[0].seconds = 0
    with visit("toy", at=slow[1]) as tab:
        run(tab)
        slow[0].seconds = 0.5
        tab.get_by_role("button", name="Run").click()
        tab.locator(".answer .said.writing").wait_for()
        tab.locator(".entry").click()
        expect(tab.locator(".entry")).to_have_count(2)

        assert tab.locator(".answer .said").inner_text() == SAYS
        assert "Finished" in tab.locator(".answer .facts").inner_text()
