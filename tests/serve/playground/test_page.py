"""The page itself: for keys and screen readers, in both languages and colours, as narrow as a phone."""

import re
from pathlib import Path

import pytest
from browser import sideways
from colours import colours_of, contrast

from lmkit.serve import playground
from lmkit.serve.app import make_app
from lmkit.serve.settings import Settings
from serve.conftest import running

expect = pytest.importorskip("playwright.sync_api").expect

FOLDER = Path(playground.__file__).parent
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
COLOURS = colours_of(FOLDER / "page.css")
TASKS = ["toy", "chat", "judge", "mlm"]


def words(tab):
    return tab.evaluate("import('./playground/words.js').then((module) => module.words)")


def test_both_languages_have_the_same_words(visit):
    with visit() as tab:
        said = words(tab)

    assert said["en"].keys() == said["ko"].keys()
    for word, english in said["en"].items():
        korean = said["ko"][word]
        assert korean.strip(), word
        assert set(re.findall(r"{\w+}", english)) == set(re.findall(r"{\w+}", korean)), word


def test_every_word_that_the_page_uses_is_known(visit):
    with visit() as tab:
        known = words(tab)["en"]
    used = set(re.findall(r'data-word(?:-[\w-]+)?="([^"]+)"', (FOLDER / "index.html").read_text()))
    for file in FOLDER.glob("*.js"):
        source = file.read_text("utf-8")
        used |= set(re.findall(r'word(?:Label|Title|Placeholder)?: "([\w-]+)"', source))
        used |= set(
            re.findall(
                r'(?<!classList\.)\b(?:say|add|state|reword\([\w.]+,|act)\("([\w-]+)"', source
            )
        )

    assert len(used) > 50
    assert used - known.keys() == set()


@pytest.mark.parametrize(
    ("locale", "heading"), [("ko-KR", "입력"), ("en-GB", "Input"), ("fr-FR", "Input")]
)
def test_the_page_speaks_what_the_browser_asks_for(visit, locale, heading):
    with visit("toy", locale=locale) as tab:
        expect(tab.locator("h2", has_text=heading)).to_be_visible()
        assert tab.locator("html").get_attribute("lang") == ("ko" if locale == "ko-KR" else "en")


def test_the_language_is_switched_at_once_and_remembered(visit):
    with visit("toy", locale="ko-KR") as tab:
        tab.get_by_role("button", name="실행").click()
        expect(tab.locator(".facts")).to_contain_text("끝까지 씀")
        tab.get_by_role("button", name="English").click()
        expect(tab.get_by_role("button", name="Run")).to_be_visible()
        tab.reload()

        expect(tab.get_by_role("button", name="Run")).to_be_visible()


def test_nothing_of_the_page_stays_english_in_korean(visit):
    """But for what the server says: names of tasks, of columns and of options."""
    with visit("toy", locale="ko-KR") as tab:
        tab.locator(".options > summary").click()
        tab.get_by_role("button", name="실행").click()
        tab.locator(".facts").wait_for()
        said = tab.locator("body").evaluate(
            """body => [...body.querySelectorAll('*')]
                .filter(one => one.checkVisibility() && !one.closest('[lang=en], .tokens, .more, .entry'))
                .flatMap(one => [...one.childNodes].filter(node => node.nodeType === Node.TEXT_NODE))
                .map(node => node.data.trim()).filter(Boolean)"""
        )

    kept = {"lmkit", "Top p", "Top k", "Ctrl ↵"}
    english = {
        text for text in said if re.search("[a-z]{3}", text) and not re.search("[가-힣]", text)
    }
    assert english - kept == set()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_as_dark_as_the_system(visit, scheme):
    ground = "getComputedStyle(document.body).backgroundColor"
    with visit("toy", color_scheme=scheme) as tab:
        own = tab.evaluate(ground)
        tab.get_by_role("button", name="Dark or light").click()
        other = tab.evaluate(ground)
        tab.reload()
        kept = tab.evaluate(ground)

    brightness = sum(map(int, re.findall(r"\d+", own)))
    assert brightness > 600 if scheme == "light" else brightness < 100
    assert other != own
    assert kept == other


@pytest.mark.parametrize("task", TASKS)
def test_a_phone_scrolls_one_way_only(visit, task):
    with visit(task, **PHONE) as tab:
        tab.locator("button.primary").click()
        tab.locator(".facts").first.wait_for()
        for summary in tab.locator("summary:visible").all():
            summary.click()
        assert sideways(tab) <= 0
        tab.get_by_role("tab", name="In code").click()
        assert sideways(tab) <= 0


@pytest.mark.parametrize("task", TASKS)
def test_whatever_can_be_used_has_a_name(visit, task):
    with visit(task) as tab:
        tab.locator("button.primary").click()
        tab.locator(".facts").first.wait_for()
        for summary in tab.locator("summary:visible").all():
            summary.click()
        tree = tab.context.new_cdp_session(tab).send("Accessibility.getFullAXTree")
    roles = {
        "button",
        "textbox",
        "checkbox",
        "combobox",
        "spinbutton",
        "link",
        "tab",
        "tabpanel",
        "log",
    }
    used = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree["nodes"]
        if not node["ignored"] and node["role"]["value"] in roles
    ]

    assert len(used) > 10
    assert [one for one in used if not one[1].strip()] == []


def test_the_keyboard_reaches_all_and_shows_where_it_is(visit):
    with visit("toy") as tab:
        seen = []
        for _ in range(40):
            tab.keyboard.press("Tab")
            seen.append(
                tab.evaluate(
                    """() => { const one = document.activeElement, style = getComputedStyle(one);
                    return [one.innerText || one.id || one.tagName, style.outlineStyle !== 'none']; }"""
                )
            )
            if tab.evaluate("document.activeElement === document.body"):
                break

    names = [name.partition("\n")[0] for name, _ in seen]
    for name in ("Skip to the task", "toy", "Run", "The prompt"):
        assert name in names
    assert names.index("Run") < names.index("The prompt")
    assert [name for name, shown in seen[:-1] if not shown] == []


def test_the_first_key_leads_past_the_bar(visit):
    with visit("toy") as tab:
        tab.keyboard.press("Tab")
        tab.keyboard.press("Enter")

        expect(tab.locator("main")).to_be_focused()
        expect(tab.locator("h1")).to_have_text("toy")


def test_the_window_is_named_after_the_task_and_the_server(visit, models):
    named = make_app(models, settings=Settings(title="우리 서버"))
    with running(named) as url, visit("judge", at=url) as tab:
        assert tab.title() == "judge · 우리 서버"


def test_arrows_go_from_tab_to_tab(visit):
    with visit("toy") as tab:
        tab.get_by_role("tab", name="The prompt").focus()
        tab.keyboard.press("ArrowRight")

        expect(tab.get_by_role("tab", name="In code")).to_be_focused()
        expect(tab.get_by_role("tabpanel", name="In code")).to_contain_text("curl")


def test_a_tasks_view_has_an_address(visit):
    with visit("judge") as tab:
        expect(tab.locator("h1")).to_have_text("judge")
        tab.get_by_role("link", name="mlm").click()
        expect(tab.locator("h1")).to_have_text("mlm")
        tab.go_back()

        expect(tab.locator("h1")).to_have_text("judge")


def test_an_answer_is_read_aloud_when_it_is_whole(visit):
    with visit("toy") as tab:
        body = tab.locator(".answer-body")
        assert body.get_attribute("aria-live") == "polite"
        tab.get_by_role("button", name="Run").click()
        tab.locator(".facts").wait_for()
        expect(body).not_to_have_attribute("aria-busy", "true")


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "grounds"),
    [
        ("ink", ["ground", "card", "sunk", "soft", "track", "own", "frame", "mark"]),
        ("muted", ["ground", "card", "sunk", "soft", "track", "own", "frame"]),
        ("accent", ["ground", "card", "soft"]),
        ("on-accent", ["accent", "accent-strong"]),
        ("control", ["control-soft"]),
        ("bad", ["card", "ground", "bad-soft"]),
        ("wait", ["card"]),
    ],
)
def test_text_stands_out_from_its_ground(scheme, ink, grounds):
    for ground in grounds:
        assert contrast(COLOURS[ink][scheme], COLOURS[ground][scheme]) >= 4.5, ground


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("line", ["edge", "accent", "control", "good", "wait", "bad"])
def test_lines_that_mean_something_stand_out(scheme, line):
    for ground in ("ground", "card"):
        assert contrast(COLOURS[line][scheme], COLOURS[ground][scheme]) >= 3, ground
