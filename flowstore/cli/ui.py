"""The command that shows a store as web pages."""

from __future__ import annotations

from pathlib import Path

import click

from flowstore.cli.app import command, completed_by, gather
from flowstore.cli.settings import STORE_PATH
from flowstore.store import opening
from flowstore.web.server import PORT, Options, serve


@command(STORE_PATH)
@click.argument("file", metavar="[STORE]", required=False, shell_complete=completed_by("files"))
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help=f"The port; default: {PORT}, or the next one that is free.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address of this machine to listen at.")
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="A name of this machine that browsers may use, besides localhost; may be repeated.",
)
@click.option("--no-browser", is_flag=True, help="Print the address without opening a browser.")
@click.option("--read-only", is_flag=True, help="Do not allow tags or notes to be changed.")
@gather(options=Options)
def ui(file: str | None, store: str | None, options: Options) -> int:
    """Show the store as web pages, until Ctrl-C.

    STORE is the store's file; default: the nearest flowstore.db. The address that is printed has a token, without
    which nobody sees anything. Nothing is loaded from the internet, and nothing in the store is executed.

    Example:
        flowstore ui --port 8765
    """
    path = _path(file or store)
    return serve(path, options, click.echo)


def _path(file: str | None) -> Path:
    """Return the path of the store to show, which can be opened now.

    Raises:
        FlowstoreError: it can't be opened as a store.
    """
    store = opening.active_store() if file is None else opening.open_store(file)
    store.close()
    return store.path
