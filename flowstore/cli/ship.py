"""`trust`, before a file of somebody else's is believed."""

from __future__ import annotations

from pathlib import Path

import click

from flowstore.cli.admin import command


@command
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--revoke", is_flag=True, help="Trust it no longer.")
def trust(path: Path, revoke: bool) -> None:
    """Trust a store: load its pickles, which are code of whoever wrote them."""
    from flowstore.store import trust as trusted
    from flowstore.store.db import open_store

    if revoke:
        known = trusted.revoke(path)
        click.echo(f"{path} is no longer trusted." if known else f"{path} was not trusted.")
        return
    store = open_store(path)
    try:
        trusted.trust(store.path, store.uuid)
    finally:
        store.close()
    click.echo(f"Pickles in {path} are loaded from now on, as long as it is the same store.")
