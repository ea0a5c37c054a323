"""The `lmkit` command: finds the verb, imports only what it needs, and turns errors into words.

Each verb's module is imported when the verb is called, so `lmkit --help` stays quick.
"""

from __future__ import annotations

import codecs
import importlib
import io
import json
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from lmkit.errors import LmkitError, near
from lmkit.train import ranks
from lmkit.verbs import VERBS as VERBS


class Verbs(click.Group):
    """The built-in verbs, and those that plugins add."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the built-in verbs, in the order of the work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the verb; a name that is not built in is looked for among the plugins."""
        if name in VERBS:
            module = importlib.import_module(f"lmkit.cli.{VERBS[name][0]}")
            command: click.Command = getattr(module, name)
            return command
        from lmkit.plugins import installed

        return installed().command(name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; say which are close to a misspelt one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from lmkit.plugins import installed

            if close := near(args[0], [*VERBS, *installed().commands]):
                raise click.UsageError(
                    f"{error.message} Close to: {', '.join(close)}.", ctx=ctx
                ) from error
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; click itself would call it a failure when the reader goes away."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # As in 'lmkit tasks | head': nothing more to say, and nothing wrong.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, help_) for verb, (_, help_) in VERBS.items()])


def _name_plugin_files(
    ctx: click.Context, parameter: click.Parameter, files: Sequence[str]
) -> None:
    """Add to the files that are plugins; click calls this before it looks for the verb in them."""
    if files:
        from lmkit.plugins import FILES

        before = os.environ.get(FILES)
        os.environ[FILES] = os.pathsep.join([*([before] if before else []), *files])


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with 'lmkit demo', or 'lmkit show qa'. Each verb has a --help with an example. "
    "Plugins may add verbs: see 'lmkit plugins'.",
)
@click.version_option(package_name="lmkit-tasks", prog_name="lmkit")
@click.option(
    "--plugin",
    multiple=True,
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_name_plugin_files,
    help="Load a Python file as a plugin; may be repeated.",
)
def cli() -> None:
    """Tasks for language models: from a record to a deployed answer.

    A task says once how a record becomes text and which part of it the model must learn. Training,
    the prompt, the exported bundle and the answer follow from it.
    """


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a user's error, 2 usage, 130 Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        codecs.register_error("lmkit.escaped", _escaped)
        sys.stdout.reconfigure(errors="lmkit.escaped")
    sys.exit(run(args))


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Write as JSON would what standard output's encoding has no character for; lines of JSON stay so."""
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    warnings.showwarning = _show_warning
    # Threads of a tokenizer and forks of a data loader do not mix; the libraries say so at length.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # torch's C++ warns of costs of what transformers chooses, per process.
    if ranks.world_size() > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        typed = tuple(sys.argv[1:] if args is None else args)  # a run keeps what began it
        result = cli.main(args=args, prog_name="lmkit", standalone_mode=False, obj=typed)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        if ranks.may_speak():
            error.show()
        return error.exit_code
    except LmkitError as error:
        if ranks.may_speak():
            _print_error(str(error))
            _print_cause(error)
        return 1
    except (click.Abort, KeyboardInterrupt):
        if ranks.may_speak():
            _print_error("interrupted")
        return 130
    except Exception as error:
        if not ranks.may_speak():
            return 1  # another process of this training has ended with an error, and this by it
        if ranks.lost(error):
            _print_error(f"another process of this training has ended or does not answer: {error}")
            return 1
        _name_plugin(error)
        raise


def _print_error(text: str) -> None:
    click.echo(click.style("error: ", fg="red", bold=True) + text, err=True, color=_colour())


def _print_cause(error: LmkitError) -> None:
    """Print the traceback of what broke a plugin, where its author asked for it."""
    from lmkit.errors import PluginError

    if isinstance(error, PluginError) and error.__cause__ is not None:
        from lmkit.plugins.reasons import traced
        from lmkit.plugins.switches import Switches

        if Switches.read(os.environ).strict:
            click.echo(traced(error.__cause__), err=True)


def _name_plugin(error: Exception) -> None:
    """Note on an error whose code it came from, where that is a plugin's and not lmkit's."""
    from lmkit.plugins import raised_in

    if plugin := raised_in(error):
        error.add_note(f"raised in the plugin '{plugin.name}' ({plugin.source}), {plugin.path}")


def _show_warning(
    message: Warning | str, category: type[Warning], *place: Any, **named: Any
) -> None:
    """Print lmkit's own warnings as one line; a library's are not the user's to mend."""
    if ranks.is_first() and category.__module__.partition(".")[0] == "lmkit":
        click.echo(click.style("warning: ", fg="yellow") + str(message), err=True, color=_colour())


def _colour() -> bool | None:
    return False if os.environ.get("NO_COLOR") else None
