"""The command `ppedge serve`: OpenAI's protocol and a page, for programs on this machine."""

from __future__ import annotations

import ipaddress
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Final

import click

from ppedge.cli.opening import (
    context_option,
    model_option,
    notify,
    opened_personalizer,
    plug_option,
)
from ppedge.cli.terminal import Words
from ppedge.defaults import PIP_INSTALL, data_home

_LOCALHOST: Final = "127.0.0.1"


@click.command()
@model_option
@plug_option
@context_option
@click.option(
    "--host",
    default=_LOCALHOST,
    show_default=True,
    metavar="ADDRESS",
    help="IP address to listen on.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="0 takes one that is free.",
)
@click.option(
    "--allow-network",
    is_flag=True,
    help="Listen on an address that other machines reach. Nothing is encrypted on the way.",
)
@click.option(
    "--allow-host",
    "names",
    type=Words(),
    multiple=True,
    metavar="NAME",
    help="Another name by which clients reach this server; may be given again.",
)
@click.option(
    "--token",
    envvar="PPEDGE_TOKEN",
    metavar="TEXT",
    help="What clients must show; or set PPEDGE_TOKEN. By default it is made once and kept.",
)
def serve(
    model: str | None,
    plug: str | None,
    context: int,
    host: str,
    port: int,
    allow_network: bool,
    names: tuple[str, ...],
    token: str | None,
) -> None:
    """Serve the model and the kept notes to programs on this machine, and a page to talk to it.

    \b
    ppedge serve
    ppedge serve --port 0 --plug none --model ANY.gguf

    The page and OpenAI's protocol (/v1/chat/completions and others) are on one address, which is
    shown with the token that they need. Ctrl-C ends it.
    """
    ensure_installed()
    address = _address(host, allow_network)
    # Imported late: they need the extra, and loading llama.cpp takes longer than --help should.
    from ppedge.server.app import make_app
    from ppedge.server.guard import Limits
    from ppedge.server.line import Line
    from ppedge.server.listener import listen, make_server, run
    from ppedge.server.secret import WANTED, is_token, kept_token

    if token is not None and not is_token(token):
        raise click.UsageError(f"--token must have {WANTED}")
    token = token or kept_token(data_home())
    limits = Limits()
    with ExitStack() as stack:
        # First what fails soonest.
        sock = stack.enter_context(listen(address, port))
        personalizer = stack.enter_context(opened_personalizer(model, plug, context))
        line = stack.enter_context(Line(limits.waiting))
        app = make_app(
            personalizer,
            line,
            token=token,
            names=names,
            any_address=not _is_loopback(address),
            limits=limits,
        )
        _tell(address, sock.getsockname()[1], token)
        run(make_server(app, limits, line.cancel_all), sock)
        notify("ended")


def ensure_installed() -> None:
    """Refuse to start without what the extra ``server`` brings.

    Raises:
        ClickException: it is not there.
    """
    if any(find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise click.ClickException(
            f"the server needs starlette and uvicorn: run `{PIP_INSTALL} 'ppedge[server]'`"
        )


def _address(host: str, allow_network: bool) -> str:
    """The IP address to listen on.

    Raises:
        UsageError: it is none, or other machines reach it and that was not allowed.
    """
    address = _LOCALHOST if host == "localhost" else host
    try:
        loopback = _is_loopback(address)
    except ValueError:
        raise click.UsageError(
            f"--host must be an IP address such as {_LOCALHOST}, not {host!r}"
        ) from None
    if loopback:
        return address
    if not allow_network:
        raise click.UsageError(
            f"--host {host} lets other machines in, and nothing is encrypted on the way; "
            "if that is what you want, add --allow-network"
        )
    notify(f"warning: other machines reach {host}, and nothing is encrypted on the way")
    return address


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _tell(address: str, port: int, token: str) -> None:
    shown = f"[{address}]" if ":" in address else address
    base = f"http://{shown}:{port}"
    click.echo(f"page:     {base}/#token={token}")
    click.echo(f"base_url: {base}/v1")
    click.echo(f"api_key:  {token}")
    notify("serving; Ctrl-C ends it")
