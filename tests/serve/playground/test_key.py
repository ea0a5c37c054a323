"""A server with a key: the page asks for it, keeps it in its tab, and writes it nowhere."""

import pytest

from lmkit.serve.app import make_app
from lmkit.serve.guarding import guarded
from lmkit.serve.settings import Settings
from serve.conftest import running
from serve.playground.conftest import SAYS

expect = pytest.importorskip("playwright.sync_api").expect

KEY = "sesame-7"


@pytest.fixture(scope="module")
def locked(models):
    settings = Settings(api_keys=(KEY,))
    with running(guarded(make_app(models, settings=settings), settings)) as url:
        yield url


def give(tab, key):
    tab.get_by_label("This server wants a key").fill(key)
    tab.keyboard.press("Enter")


@pytest.fixture
def let_in(visit, locked):
    with visit("toy", at=locked, expects=("401",)) as tab:
        give(tab, KEY)
        tab.get_by_role("button", name="Run").wait_for()
        yield tab


def test_the_key_opens_the_page(let_in):
    let_in.get_by_role("button", name="Run").click()

    expect(let_in.locator(".answer .said")).to_have_text(SAYS)


def test_another_key_is_refused(visit, locked):
    with visit("toy", at=locked, expects=("401",)) as tab:
        give(tab, "open")

        tab.get_by_role("alert").filter(has_text="does not take this key").wait_for()


def test_what_can_be_no_key_is_refused_and_not_kept(visit, locked):
    with visit("toy", at=locked, expects=("401",)) as tab:
        give(tab, "열려라")
        tab.get_by_role("alert").filter(has_text="does not take this key").wait_for()
        give(tab, KEY)

        tab.get_by_role("button", name="Run").wait_for()


def test_the_key_is_kept_in_the_tab_alone(let_in):
    let_in.reload()
    let_in.get_by_role("button", name="Run").wait_for()

    assert KEY in let_in.evaluate("Object.values(sessionStorage)")
    assert KEY not in let_in.evaluate(
        "Object.values(localStorage).join() + document.cookie + location"
    )


def test_the_key_can_be_forgotten(let_in):
    let_in.get_by_role("button", name="API key").click()
    let_in.get_by_role("button", name="Forget it").click()

    expect(let_in.get_by_label("This server wants a key")).to_have_value("")
    assert let_in.evaluate("sessionStorage.length") == 0


@pytest.mark.parametrize("language", ["curl", "Python"])
def test_code_takes_the_key_from_the_environment(let_in, language):
    let_in.get_by_role("tab", name="In code").click()
    let_in.get_by_role("button", name=language, exact=True).click()

    text = let_in.locator("pre").inner_text()
    assert "LMKIT_API_KEY" in text
    assert KEY not in text
