"""What the playground is made of: files that need no building and know no other host."""

import re

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from lmkit.serve import playground
from lmkit.serve.app import make_app
from lmkit.serve.settings import Settings


@pytest.fixture(scope="module")
def client():
    with TestClient(Starlette(routes=playground.routes("우리 서버 <1>"))) as client:
        yield client


PATHS = [route.path for route in playground.routes()]


def test_the_page_is_at_the_root_and_its_files_below_one_folder():
    assert "/" in PATHS
    assert all(path.startswith("/playground/") for path in PATHS if path != "/")


@pytest.mark.parametrize("path", PATHS)
def test_every_file_is_held_to_this_server(client, path):
    answer = client.get(path)

    policy = dict(
        rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; ")
    )
    assert answer.status_code == 200
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) <= {"'self'", "'none'"}
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", PATHS)
def test_no_file_knows_another_host(client, path):
    hosts = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[\w/.]*", client.get(path).text))

    assert hosts <= {"http://www.w3.org/2000/svg"}  # a name, which nothing asks


def test_whatever_a_file_names_is_there(client):
    text = {path: client.get(path).text for path in PATHS}
    named = set(re.findall(r'(?:href|src)="(playground/[^"]+)"', text["/"]))
    named |= {
        f"playground/{name}"
        for path in PATHS
        for name in re.findall(r'from "\./([^"]+)"', text[path])
    }

    assert {f"/{name}" for name in named} == set(PATHS) - {"/"}


def test_the_page_has_no_script_or_style_of_its_own(client):
    page = client.get("/").text

    assert not re.search(r"<style|<script(?![^>]* src=)| style=| on\w+=", page)


def test_the_server_has_the_name_it_was_given(client):
    assert "<title>우리 서버 &lt;1&gt;</title>" in client.get("/").text


def test_what_a_browser_has_is_not_sent_again(client):
    tag = client.get("/playground/main.js").headers["etag"]

    again = client.get("/playground/main.js", headers={"if-none-match": tag})

    assert (again.status_code, again.content) == (304, b"")


def test_a_changed_page_has_another_tag():
    tags = set()
    for title in ("one", "other"):
        with TestClient(Starlette(routes=playground.routes(title))) as client:
            tags.add(client.get("/").headers["etag"])

    assert len(tags) == 2


def test_nothing_else_is_served(client):
    for path in ("/playground/", "/playground/__init__.py", "/playground/../__init__.py"):
        assert client.get(path).status_code == 404


def test_a_server_may_be_without_it(models):

    with TestClient(make_app(models, settings=Settings(playground=False))) as client:
        answers = [client.get(path) for path in PATHS]

    assert {answer.status_code for answer in answers} == {404}
