"""`export`, `import`, `import-metaflow` and `trust`: runs on their way from one store to another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import click

from flowstore import later
from flowstore.cli import output
from flowstore.cli.app import command, completed_by, gather
from flowstore.cli.settings import FORM, NAMESPACE, STORE, STORE_PATH, STORE_UNUSED, with_tags
from flowstore.store import opening
from flowstore.text import counted, safe, size
from flowstore.transfer.selection import Selection

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


class Size(click.ParamType):  # type: ignore[type-arg]  # generic in click's newest version only
    """A number of bytes: 500, 64KB, 10MB, 1.5GB, 1GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes."""
        match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,3})?) ?([KMGT]I?B|)B?", str(value).upper())
        if match is None or match[2] not in _UNITS:
            self.fail(f"{value!r} is not a size: give a number and a unit, as in 500, 64KB, 10MB, 1.5GB.", param, ctx)
        return round(float(match[1]) * _UNITS[match[2]])


@later.frozen
class _Parts:
    """The parts of runs to export: with or without their logs, and artifacts up to a size."""

    no_logs: bool
    largest: int | None


@command(STORE, NAMESPACE, FORM)
@click.argument("out", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("pathspecs", nargs=-1, metavar="[PATHSPEC]...", shell_complete=completed_by("pathspecs"))
@click.option("--flow", metavar="F", shell_complete=completed_by("flows"), help="The runs of this flow.")
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
@click.option("--html", is_flag=True, help="Write one HTML file that shows the runs, instead of a store.")
@click.option("--force", is_flag=True, help="Replace a store, or with --html a file, that is there.")
@gather(selection=Selection, parts=_Parts)
def export(out: Path, selection: Selection, parts: _Parts, html: bool, force: bool, form: str) -> None:
    """Write selected runs, or all, to a new store or HTML file.

    PATHSPEC is F for all runs of a flow, or F/5 or F/latest for one. The new file has an identity of its own and
    keeps the ids of the runs. Nothing else is in it, no deployments either. A run that is still running is taken as
    it stands; in the new store it will be shown as dead.

    With --html, OUT is one file with the pages of the runs, the logs of all their tasks, pictures, cards and code. It
    has no script, loads nothing, and needs no flowstore to be read.

    Example:
        flowstore export results.db HelloFlow/5 --max-artifact-size 10MB
    """
    if out.suffix.lower() in {".html", ".htm"} and not html:
        raise click.UsageError(f"{out} would be a store, not a page. For a page, add --html.")
    if html:
        _export_html(out, selection, parts, force=force, form=form)
        return
    from flowstore.transfer import export as exporting

    wish = exporting.Wish(selection=selection, logs=not parts.no_logs, max_artifact_bytes=parts.largest)
    done = exporting.export(opening.active_store(), out, wish, force=force)
    if form != "table":
        row = {"path": str(done.path), "runs": done.runs, "size_bytes": done.size_bytes, "left_out": done.left_out}
        output.echo([row], form)
        return
    without = f", without the bytes of {counted(done.left_out, 'artifact')}" if done.left_out else ""
    click.echo(safe(f"Exported {counted(done.runs, 'run')} ({size(done.size_bytes)}{without}) to {out}."))


def _export_html(out: Path, selection: Selection, parts: _Parts, *, force: bool, form: str) -> None:
    from flowstore.web.saved import save

    if parts.largest is not None:
        raise click.UsageError("--max-artifact-size does not go with --html: an HTML file has no bytes of artifacts.")
    if not any(attrs.astuple(selection)):
        raise click.UsageError("Name the runs that the file is to show, as in: flowstore export --html OUT.html F/5")
    done = save(opening.active_store(), out, selection, logs=not parts.no_logs, force=force)
    if form != "table":
        output.echo([{"path": str(done.path), "runs": done.runs, "size_bytes": done.size_bytes}], form)
        return
    click.echo(safe(f"Exported {counted(done.runs, 'run')} ({size(done.size_bytes)}) to {out}."))


@command(STORE_PATH, FORM)
@click.argument("paths", nargs=-1, required=True, metavar="IN.db...", type=click.Path(path_type=Path))
def import_(paths: tuple[Path, ...], store: str | None, form: str) -> None:
    """Add the runs of other stores to this one.

    The store is created if there is none. All runs are imported or, on an error, none. Runs that are here already are
    skipped, so importing twice is importing once. Ids that were ever used here get new ones; times stay. Runs that
    are still going on there are skipped: import again when they have ended. Pickles of a file that you do not trust
    stay untrusted, and its runs do not become yours or production's: a tag such as user:YOU is kept as
    user:YOU@STORE.

    Example:
        flowstore import results.db
    """
    from flowstore.transfer.importing import import_runs, opened

    with opened(paths) as sources:
        target = opening.ensure_active_store(store)
        done = import_runs(target, sources)
    if form != "table":
        runs = [{"store": uuid, "origin": there, "run": here} for uuid, there, here in done.runs]
        row = {"runs": runs, "known": done.known, "running": done.running, "copied_bytes": done.copied_bytes}
        if done.kept_apart:
            row["kept_apart"] = done.kept_apart
        output.echo([row], form)
        return
    summary = f"Imported {counted(len(done.runs), 'run')} ({size(done.copied_bytes)}) into {target.path}."
    if known := len(done.known):
        summary += f" {known} of {known + len(done.runs)} {'was' if known == 1 else 'were'} here already."
    if done.completed:
        summary += f" It brought the bytes of {counted(done.completed, 'artifact')} that had been left out."
    click.echo(safe(summary))
    for tag, kept in done.kept_apart.items():
        click.echo(safe(f"Runs tagged {tag} there are tagged {kept} here: you do not trust their file."), err=True)
    for pathspec in done.running:
        click.echo(safe(f"Skipped {pathspec}, which is still running: import again when it has ended."), err=True)


@command(STORE_PATH, FORM)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--trust", "trusted", is_flag=True, help="Let the pickles in it be loaded.")
def import_metaflow(folder: Path, trusted: bool, store: str | None, form: str) -> None:
    """Add the runs of Metaflow's local store to this one.

    FOLDER is the folder .metaflow, or the one that it is in. The store is created if there is none. All finished runs
    are imported or, on an error, none. Runs that are here already are skipped, so importing twice is importing once.
    They get new ids; their addresses in Metaflow still find them, as in: flowstore show HelloFlow/1795762421095488

    Nothing in the folder is executed. Artifacts of Python's plain types are stored as values that anybody can read;
    all others stay pickles, which are not loaded unless you import with --trust: loading a pickle can run code of the
    person who wrote it.

    Example:
        flowstore import-metaflow .metaflow
    """
    from flowstore.transfer.metaflow_history import import_history

    done = import_history(lambda: opening.ensure_active_store(store), folder, trusted=trusted)
    if form != "table":
        output.echo([done.row], form)
        return
    for line in done.summary(opening.active_store().path):
        click.echo(safe(line))
    for line in done.notes:
        click.echo(safe(line), err=True)


@command(STORE_UNUSED, FORM)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--revoke", is_flag=True, help="No longer trust it.")
def trust(path: Path, revoke: bool, form: str) -> None:
    """Trust a store, so that its pickles are loaded.

    Loading a pickle can run code of the person who wrote it.

    Example:
        flowstore trust results.db
    """
    changed = _revoke(path) if revoke else _trust(path)
    if form != "table":
        output.echo([{"path": str(path), "trusted": not revoke, "changed": changed}], form)
    elif not revoke:
        click.echo(f"Pickles in {path} are loaded from now on, as long as it is the same store.")
    else:
        click.echo(f"{path} is no longer trusted." if changed else f"{path} was not trusted.")


def _revoke(path: Path) -> bool:
    from flowstore.store import trust as trusted_stores

    return trusted_stores.revoke(path)


def _trust(path: Path) -> bool:
    from flowstore.store import trust as trusted_stores

    store = opening.open_store(path, trusted=True)
    try:
        trusted_stores.trust(store.path, store.uuid)
    finally:
        store.close()
    return True
