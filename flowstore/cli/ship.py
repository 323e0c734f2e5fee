"""`export`, `import` and `trust`: runs on their way from one store to another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from flowstore.cli import completion
from flowstore.cli.admin import command, with_tags
from flowstore.store import opening
from flowstore.text import counted, safe

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


class Size(click.ParamType):  # type: ignore[type-arg]  # generic in click's newest version only
    """A number of bytes: 500, 64KB, 10MB, 1.5GB, 1GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bytes."""
        match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,3})?) ?([KMGT]I?B|)B?", str(value).upper())
        if match is None or match[2] not in _UNITS:
            self.fail(f"{value!r} is not a size: give a number and a unit, as in 500, 64KB, 10MB, 1.5GB.", param, ctx)
        return round(float(match[1]) * _UNITS[match[2]])


@command
@click.argument("out", metavar="OUT.db", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("pathspecs", nargs=-1, metavar="[PATHSPEC]...", shell_complete=completion.pathspecs)
@click.option("--flow", metavar="F", shell_complete=completion.flows, help="The runs of this flow.")
@with_tags
@click.option("--latest", type=click.IntRange(1), metavar="N", help="Only the newest N of each flow.")
@click.option("--no-logs", is_flag=True, help="Without what tasks printed.")
@click.option(
    "--max-artifact-size",
    "largest",
    type=Size(),
    metavar="S",
    help="Leave out the bytes of larger artifacts, as in 10MB; their descriptions stay.",
)
@click.option("--force", is_flag=True, help="Replace a store that is there.")
def export(
    out: Path,
    pathspecs: tuple[str, ...],
    flow: str | None,
    tags: tuple[str, ...],
    latest: int | None,
    no_logs: bool,
    largest: int | None,
    force: bool,
    form: str,
) -> None:
    """Write a new store with just these runs: all of a flow (Flow), one (Flow/5), or everything.

    The new file has an identity of its own and keeps the runs' ids. Nothing else is in it, no deployments either.
    A run that is still running is taken as it stands; elsewhere it will be seen as dead.
    """
    from flowstore.cli import render
    from flowstore.transfer.export import Wish
    from flowstore.transfer.export import export as write
    from flowstore.transfer.selection import Selection

    selection = Selection(pathspecs=pathspecs, flow=flow, tags=tags, latest=latest)
    wish = Wish(selection=selection, logs=not no_logs, max_artifact_bytes=largest)
    done = write(opening.active_store(), out, wish, force=force)
    if form != "table":
        found = {"path": str(done.path), "runs": done.runs, "size_bytes": done.size_bytes, "left_out": done.left_out}
        render.echo([found], form)
        return
    without = f", without the bytes of {counted(done.left_out, 'artifact')}" if done.left_out else ""
    click.echo(safe(f"Exported {counted(done.runs, 'run')} ({render.size(done.size_bytes)}{without}) to {out}."))


@command
@click.argument("paths", nargs=-1, required=True, metavar="IN.db...", type=click.Path(path_type=Path))
def import_(paths: tuple[Path, ...], store: str | None, form: str) -> None:
    """Add the runs of other stores to this one, which is made if there is none: all of them or, on an error, nothing.

    Runs that are here already are skipped, so importing twice is importing once. Ids that were ever used here get
    new ones; times stay. Runs that are still going on there are skipped: import again when they have ended. Pickles
    of a file that you don't trust stay untrusted as part of its runs, and its runs don't become yours or production's:
    a tag such as user:YOU is kept as user:YOU@STORE.
    """
    from flowstore.cli import render
    from flowstore.transfer.importing import import_runs, opened

    with opened(paths) as sources:
        target = opening.ensure_active_store(store)
        done = import_runs(target, sources)
    if form != "table":
        runs = [{"store": uuid, "origin": there, "run": here} for uuid, there, here in done.runs]
        found = {"runs": runs, "known": done.known, "running": done.running, "copied_bytes": done.copied_bytes}
        if done.kept_apart:
            found["kept_apart"] = done.kept_apart
        render.echo([found], form)
        return
    told = f"Imported {counted(len(done.runs), 'run')} ({render.size(done.copied_bytes)}) into {target.path}."
    if known := len(done.known):
        told += f" {known} of {known + len(done.runs)} {'was' if known == 1 else 'were'} here already."
    click.echo(safe(told))
    for tag, kept in done.kept_apart.items():
        click.echo(safe(f"Runs tagged {tag} there are tagged {kept} here: you don't trust their file."), err=True)
    for pathspec in done.running:
        click.echo(safe(f"Skipped {pathspec}, which is still running: import again when it has ended."), err=True)


@command
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--revoke", is_flag=True, help="Trust it no longer.")
def trust(path: Path, revoke: bool, form: str) -> None:
    """Trust a store: load its pickles, which are code of whoever wrote them."""
    from flowstore.cli import render
    from flowstore.store import trust as trusted
    from flowstore.store.opening import open_store

    if revoke:
        known = trusted.revoke(path)
        if form != "table":
            render.echo([{"path": str(path), "trusted": False, "changed": known}], form)
        else:
            click.echo(f"{path} is no longer trusted." if known else f"{path} was not trusted.")
        return
    store = open_store(path, trusted=True)
    try:
        trusted.trust(store.path, store.uuid)
    finally:
        store.close()
    if form != "table":
        render.echo([{"path": str(path), "trusted": True, "changed": True}], form)
    else:
        click.echo(f"Pickles in {path} are loaded from now on, as long as it is the same store.")
