"""The verb serve: bundles behind an address, until a signal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmkit.cli.options import RAY, check_engine, engine_options, precision_option, threads_option
from lmkit.cli.printing import json_option

if TYPE_CHECKING:
    from lmkit.serve.settings import Settings

KEY_VARIABLE = "LMKIT_API_KEY"
_UNITS = {"B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def size(context: click.Context | None, option: click.Parameter | None, given: str) -> int:
    """Return a number of bytes, which was written with or without a unit.

    >>> size(None, None, "1.5 KiB")
    1536
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?I?B?)", given.strip().upper())
    unit = found and _UNITS.get(found[2].removesuffix("B") + "B")
    if not found or not unit or int(float(found[1]) * unit) < 1:
        raise click.BadParameter(f"{given!r} is no size; expected one such as 512MiB or 1GiB")
    return int(float(found[1]) * unit)


@click.command(
    epilog="Example: lmkit serve bundles/chat; then open http://127.0.0.1:8000 in a browser, or: "
    "curl http://127.0.0.1:8000/v1/models"
)
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on. Any but this machine's own wants a key.",
)
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0 takes one that is free.",
)
@click.option(
    "--api-key",
    envvar=KEY_VARIABLE,
    show_envvar=True,
    metavar="KEY",
    help="Who asks must send this key. Others on this machine see what is typed here, not what is "
    "in the environment or in a file.",
)
@click.option(
    "--api-key-file",
    metavar="FILE",
    help="A file of keys, one a line, each of which will do.",
)
@precision_option
@threads_option
@click.option(
    "--max-rows",
    default=32,
    show_default=True,
    type=click.IntRange(min=1),
    help="Answers that are written at once, of each bundle.",
)
@click.option(
    "--max-waiting",
    default=128,
    show_default=True,
    type=click.IntRange(min=0),
    help="Requests that wait for their turn, of each bundle; one more is told to come again (429).",
)
@click.option(
    "--kv-memory",
    default="1GiB",
    show_default=True,
    metavar="SIZE",
    callback=size,
    help="The most memory for what the answers at work have read and written, of each bundle.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    help="The most new tokens that a request may ask for; what the model can hold if not given.",
)
@click.option(
    "--timeout",
    default=300.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds that a request may take, waiting included.",
)
@click.option(
    "--max-body",
    default="1MiB",
    show_default=True,
    metavar="SIZE",
    callback=size,
    help="The largest request that is read.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="A web page's origin, such as https://example.org, that may ask from a browser; repeatable; "
    "* is any.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How the log on standard error is written.",
)
@click.option(
    "--log-prompts",
    is_flag=True,
    help="Write into the log what is asked and answered, which is otherwise never there.",
)
@click.option(
    "--drain",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds that running answers have to end when the server is told to stop.",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Check the bundles' checksums and golden answers before they are served, or their sizes "
    "and golden prompts' ids only.",
)
@click.option(
    "--playground/--no-playground", default=True, show_default=True, help="A page to try it, at /."
)
@engine_options(workers=False)
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    help="With --engine ray: how many processes have the bundles open, each with --threads cores; as "
    "many as there is room for if not given.",
)
@click.option(
    "--max-replicas",
    type=click.IntRange(min=1),
    help="With --engine ray: up to how many there are while more is asked than --replicas (1 if not "
    "given) can write at once.",
)
@json_option
def serve(
    bundles: Sequence[str],
    host: str,
    port: int,
    api_key: str | None,
    api_key_file: str | None,
    precision: str | None,
    threads: int | None,
    max_rows: int,
    max_waiting: int,
    kv_memory: int,
    max_tokens: int | None,
    timeout: float,
    max_body: int,
    cors_origins: Sequence[str],
    log_format: Any,
    log_prompts: bool,
    drain: float,
    verify: bool,
    playground: bool,
    engine: str,
    address: str | None,
    replicas: int | None,
    max_replicas: int | None,
    as_json: bool,
) -> None:
    """Serve one or more BUNDLEs over HTTP, without torch.

    The server speaks OpenAI's protocol (/v1/chat/completions, /v1/completions), has a typed address
    for each task (/v1/tasks/NAME, which takes the record's columns), and shows a playground at /. The
    prompt is made here, by the task itself. Each bundle goes by its task's name; NAME=BUNDLE gives it
    another.

    It is for this machine alone unless there is a key. SIGTERM or Ctrl-C lets running answers end,
    and then it stops with 0; a second one stops it at once.

    With --json it prints one line when it is ready.
    """
    check_engine(engine, address=address, replicas=replicas, max_replicas=max_replicas)
    if replicas and max_replicas and max_replicas < replicas:
        raise click.UsageError(f"--max-replicas {max_replicas} is below --replicas {replicas}")
    settings = _settings(
        host,
        keys=_keys(api_key, api_key_file),
        cors_origins=tuple(cors_origins),
        max_body_bytes=max_body,
        max_tokens=max_tokens,
        timeout=timeout,
        log_prompts=log_prompts,
        playground=playground,
    )
    _check_extra()
    from lmkit.batching import Limits

    limits = Limits(max_rows=max_rows, max_waiting=max_waiting, kv_bytes=kv_memory)
    show = _show_json if as_json else _show
    if engine == RAY:
        from lmkit.cli.clustered import serve_on_cluster

        serve_on_cluster(
            named(bundles),
            settings,
            limits,
            show,
            where=(host, port, address),
            replicas=(replicas, max_replicas, threads),
            precision=precision,
            verify=verify,
            drain=drain,
            log_format=log_format,
        )
        return
    from lmkit.serve.app import make_app
    from lmkit.serve.connections import Patience
    from lmkit.serve.gate import Gate
    from lmkit.serve.guarding import guarded
    from lmkit.serve.logs import set_up
    from lmkit.serve.models import Models
    from lmkit.serve.running import listen, url_of
    from lmkit.serve.running import serve as run

    set_up(log_format, log_prompts=log_prompts)
    bound = listen(host, port)
    try:
        models = Models.open(
            named(bundles), limits=limits, precision=precision, threads=threads, verify=verify
        )
    except BaseException:
        bound.close()
        raise
    gate = Gate()
    app = make_app(models, settings=settings)
    guards = guarded(app, settings, gate=gate, metrics=app.state.surface.metrics)
    names = [(one.name, str(one.model.path)) for one in models]
    try:
        run(
            guards,
            bound,
            gate=gate,
            drain=drain,
            patience=Patience().with_bodies(max_body),
            on_ready=lambda: show(url_of(bound), names, settings),
            on_stop=models.close,
        )
    finally:
        models.close()


def named(bundles: Sequence[str]) -> list[tuple[str | None, str]]:
    """Return bundles with the names that were typed for them, if any.

    >>> named(["bundles/qa", "small=bundles/chat-int4"])
    [(None, 'bundles/qa'), ('small', 'bundles/chat-int4')]
    """
    found: list[tuple[str | None, str]] = []
    for bundle in bundles:
        name, equals, path = bundle.partition("=")
        if equals and not Path(bundle).exists():
            if not name or not path:
                raise click.UsageError(f"{bundle}: expected BUNDLE or NAME=BUNDLE")
            found.append((name, path))
        else:
            found.append((None, bundle))
    return found


def _check_extra() -> None:
    from lmkit.errors import MissingExtra

    try:
        import httptools
        import prometheus_client
        import pydantic
        import starlette
        import uvicorn
    except ImportError as error:
        raise MissingExtra("'lmkit serve'", "serve", error.name) from error
    del httptools, prometheus_client, pydantic, starlette, uvicorn


def _keys(api_key: str | None, file: str | None) -> tuple[str, ...]:
    from lmkit.serve.settings import check_keys, read_keys

    typed = check_keys([api_key], ["--api-key"]) if api_key is not None else ()
    return (*typed, *(read_keys(file) if file is not None else ()))


def _settings(host: str, *, keys: tuple[str, ...], **given: Any) -> Settings:
    from lmkit.serve.settings import LOOPBACK_HOSTS, Settings, is_loopback

    if not keys and not is_loopback(host):
        raise click.UsageError(
            f"--host {host} lets other machines ask, so there must be a key: give --api-key-file, "
            f"or set {KEY_VARIABLE}; 'openssl rand -hex 32' makes one. Without --host, only this "
            "machine can ask."
        )
    return Settings(api_keys=keys, hosts=(*LOOPBACK_HOSTS, host.lower()), **given)


def _show(url: str, names: Sequence[tuple[str, str]], settings: Settings) -> None:
    """Say where the server is and what it has, for people."""
    keyed = "wanted, as 'Authorization: Bearer KEY'" if settings.api_keys else "none"
    click.echo(f"serving at {url}  (Ctrl-C stops)")
    for name, path in names:
        click.echo(f"  model       {name}  ({path})")
    if settings.playground:
        click.echo(f"  playground  {url}/")
    click.echo(f"  OpenAI      base_url {url}/v1")
    click.echo(f"  key         {keyed}")


def _show_json(url: str, names: Sequence[tuple[str, str]], settings: Settings) -> None:
    """Say it in one line, for programs."""
    import json

    facts = {
        "url": url,
        "models": [name for name, _ in names],
        "playground": f"{url}/" if settings.playground else None,
        "api_key": bool(settings.api_keys),
    }
    click.echo(json.dumps(facts, ensure_ascii=False))
