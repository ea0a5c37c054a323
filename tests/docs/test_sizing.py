"""The arithmetic of the page on sizing gives what the page says."""

from .snippets import DOCS


def test_the_page_does_as_it_says(reader):
    reader.follow(DOCS / "sizing.md")
