"""What runs the pages notices when a page is wrong."""

import pytest

from . import snippets
from .snippets import DOCS, Reader, blocks_of, check_shown


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """Return a function that follows a page of the given text."""
    monkeypatch.setattr(snippets, "DOCS", tmp_path)

    def follow(text):
        page = tmp_path / "page.md"
        page.write_text(text, "utf-8")
        Reader(tmp_path).follow(page)

    return follow


def test_a_file_is_written_and_a_program_reads_it(follow):
    follow(
        "```{code-block} text\n:caption: a/b.txt\n\nhello\n```\n"
        "```python\nimport pathlib\nprint(pathlib.Path('a/b.txt').read_text())\n```\n```text\nhello\n```\n"
    )


def test_output_that_is_another_is_refused(follow):
    with pytest.raises(AssertionError, match=r"page.md:4: '3' was not printed"):
        follow("```python\nprint(1 + 1)\n```\n```text\n3\n```\n")


def test_a_command_that_fails_unsaid_is_refused(follow):
    with pytest.raises(AssertionError, match=r"page.md:1 exited with 1"):
        follow("```sh\nfalse\n```\n")


def test_a_command_that_was_to_fail_and_does_not_is_refused(follow):
    with pytest.raises(AssertionError, match=r"exited with 0"):
        follow("<!-- fails -->\n```sh\ntrue\n```\n")


def test_a_statement_that_raises_is_refused(follow):
    with pytest.raises(ZeroDivisionError):
        follow("```python\n1 / 0\n```\n")


def test_what_is_not_to_be_run_is_not(follow):
    follow("<!-- not run: it would fail -->\n```sh\nfalse\n```\n")


def test_output_without_a_program_is_refused(follow):
    with pytest.raises(AssertionError, match="nothing was run"):
        follow("```text\nhello\n```\n")


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("a\nb", "a\nb\n"),
        ("...\nb", "a\nb\n"),
        ("a ... c", "a and b and c"),
        ("a  b", "a      b"),
        ("a\n...\nd", "a\nb\nc\nd\ne"),
    ],
)
def test_output_may_be_shown_in_part(shown, printed):
    check_shown(shown, printed, "here")


@pytest.mark.parametrize(
    ("shown", "printed"),
    [("a\nc", "a\nb\nc"), ("b\n...\na", "a\nb"), ("a b", "a and b"), ("a", "ab")],
)
def test_output_out_of_order_or_with_something_between_is_refused(shown, printed):
    with pytest.raises(AssertionError):
        check_shown(shown, printed, "here")


@pytest.mark.parametrize("folder", ["tutorial", "howto"])
def test_every_page_has_something_to_do(folder):
    others = ("index", "scale", "playground")  # these need several machines, and a browser
    pages = [page for page in (DOCS / folder).glob("*.md") if page.stem not in others]

    assert [page.name for page in pages if not any(block.runs for block in blocks_of(page))] == []


def test_no_page_leaves_out_what_could_be_run():
    """Each block that is only to be read says why; a new reason is to be thought about."""
    reasons = {
        block.note.removeprefix("not run: ")
        for page in DOCS.rglob("*.md")
        for block in blocks_of(page)
        if block.note.startswith("not run")
    }

    assert reasons == {
        "it is the command above once more",
        "it needs Docker, and tests/deploy runs its steps",
        "it needs a model from the hub",
        "it needs ray, and tests/cluster runs it",
        "it serves until it is stopped",
        "it takes minutes, or needs a model",
        "the next block asks it",
        "tests/third_party/check_new.py runs it",
        "the tests' own environment has it",
    }
