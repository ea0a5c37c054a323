"""The verb new: a plugin of one's own, to begin with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from lmkit.cli.printing import json_option, print_json
from lmkit.scaffold.variants import FAMILIES, PARTS


@click.command(
    epilog="Example: lmkit new haiku --with decoder,command --author 'Ann Lee <ann@example.org>'"
)
@click.argument("name")
@click.option(
    "--family",
    type=click.Choice(FAMILIES),
    default="causal",
    show_default=True,
    help="What the task is about: text written on (causal), words guessed (masked), one text made of "
    "another (seq2seq), one of a few labels (labels), or a conversation (chat).",
)
@click.option(
    "--with",
    "parts",
    multiple=True,
    metavar="PART,...",
    help=f"Write these parts as classes of the plugin's own, to be changed: {', '.join(PARTS)}. "
    "Without, the task is made of lmkit's parts.",
)
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(),
    help="The folder to be made; lmkit-NAME if not given.",
)
@click.option(
    "--author",
    metavar="TEXT",
    help="Who the licence names: 'Name' or 'Name <email>'; 'The lmkit-NAME authors' if not given.",
)
@json_option
def new(
    name: str,
    family: str,
    parts: Sequence[str],
    output: str | None,
    author: str | None,
    as_json: bool,
) -> None:
    """Write a plugin: a folder that can be installed, with a task NAME, sample records and tests.

    NAME is of small letters, digits, '-' and '_'; the package is called lmkit-NAME.
    """
    from lmkit.errors import OutputExists
    from lmkit.scaffold.naming import named
    from lmkit.scaffold.rendering import Author, write_plugin
    from lmkit.scaffold.variants import Variant

    wanted = [part.strip() for given in parts for part in given.split(",")]
    variant = Variant(family, [part for part in wanted if part])
    names = named(name)
    folder = Path(output or names.distribution)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise OutputExists(folder, remedy="choose another folder with --output, or remove it")
    written = Author.read(author if author is not None else f"The {names.distribution} authors")
    files = write_plugin(folder, names, variant, written)
    after = [
        f"cd {shlex.quote(str(folder))} && pip install -e '.[test]'",
        f"lmkit show {names.name} --data {names.name}.jsonl",
        "pytest",
    ]
    if as_json:
        print_json({"name": names.name, "folder": str(folder), "files": files, "next": after})
        return
    click.echo(f"{folder} has a task, '{names.name}', with its records and tests:")
    click.echo("".join(f"  {path}\n" for path in files))
    click.echo("Next:")
    click.echo("".join(f"  {command}\n" for command in after), nl=False)
