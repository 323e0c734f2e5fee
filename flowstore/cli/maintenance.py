"""`delete`, `vacuum` and `check`: a store that stays small and sound."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from flowstore import later
from flowstore.cli import output
from flowstore.cli.app import command, completed_by, gather
from flowstore.cli.settings import FORM, NAMESPACE, STORE, STORE_PATH, time_before, with_tags
from flowstore.errors import FlowstoreError, StoreCorrupt
from flowstore.sqlite.typed_rows import time_of
from flowstore.store import opening
from flowstore.text import counted, safe, size
from flowstore.transfer.selection import Selection, run_ids

if TYPE_CHECKING:
    from flowstore.maintenance.delete import Candidate
    from flowstore.sqlite.database import Database
    from flowstore.store.problems import Problem

# --- delete


@later.frozen
class _Consent:
    """How far a deletion may go: only be shown, without a question, also to what production needs."""

    dry_run: bool
    yes: bool
    force: bool


@command(STORE, NAMESPACE, FORM)
@click.argument("pathspecs", nargs=-1, metavar="[PATHSPEC]...", shell_complete=completed_by("pathspecs"))
@click.option(
    "--older-than",
    "older_than_ms",
    callback=time_before,
    metavar="30d",
    help="Created longer ago than this: m, h, d or w.",
)
@click.option("--flow", metavar="F", shell_complete=completed_by("flows"), help="Only runs of this flow.")
@with_tags
@click.option("--keep-latest", type=click.IntRange(0), metavar="N", help="But not the newest N of each flow.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--yes", is_flag=True, help="Delete without a question.")
@click.option("--force", is_flag=True, help="Also the newest successful run of a production namespace.")
@gather(selection=Selection, consent=_Consent)
def delete(selection: Selection, consent: _Consent, form: str) -> int:
    """Delete runs, and the bytes that nothing else uses.

    PATHSPEC is F for all runs of a flow, or F/5 or F/latest for one. A run that is running is never deleted, nor
    one that a running run resumes. The newest successful run of a production namespace stays unless --force is
    given.

    Example:
        flowstore delete HelloFlow --older-than 30d --keep-latest 3 --dry-run
    """
    from flowstore.maintenance import delete as deletion

    if selection == Selection():
        raise click.UsageError("Say which runs: by pathspecs, --older-than, --flow, --tag or --keep-latest.")
    store = opening.active_store()
    if not (store.writable or consent.dry_run):
        raise FlowstoreError(f"{store.path} cannot be written, so nothing can be deleted from it: it is read-only.")
    candidates = deletion.candidates(store, run_ids(store, selection), force=consent.force)
    if not (consent.dry_run or consent.yes or sys.stdin.isatty()):
        raise click.UsageError("There is no terminal to ask on: give --yes to delete, or --dry-run to look first.")
    deletable = [run for run in candidates if run.kept_because is None]
    if form == "table" and candidates:
        _echo_candidates(candidates, form, ())
    if not _confirmed(candidates, deletable, consent):
        if form != "table":
            _echo_candidates(candidates, form, ())
        return int(not consent.dry_run and bool(candidates))
    done = deletion.delete(store, deletable, force=consent.force)
    if form != "table":
        _echo_candidates(candidates, form, done.runs)
    sizes = f"{size(done.after_bytes)} after {size(done.before_bytes)}"
    click.echo(f"Deleted {counted(len(done.runs), 'run')}. {store.path.name} has {sizes}.", err=True)
    return 0


def _confirmed(candidates: Sequence[Candidate], deletable: Sequence[Candidate], consent: _Consent) -> bool:
    """Say which runs stay and what deleting the others would free, and return whether to delete them."""
    for run in candidates:
        if run.kept_because is not None:
            click.echo(safe(f"{run.pathspec} is not deleted: {run.kept_because}."), err=True)
    amount = f"{counted(len(deletable), 'run')}, {size(sum(run.bytes for run in deletable))}"
    if consent.dry_run or not deletable:
        click.echo(f"Would delete {amount}." if deletable else "There is nothing to delete.", err=True)
        return False
    if consent.yes or click.confirm(f"Delete {amount}?", err=True):
        return True
    click.echo("Nothing was deleted.", err=True)
    return False


def _echo_candidates(candidates: Sequence[Candidate], form: str, deleted: Sequence[int]) -> None:
    ids = set(deleted)
    rows = [
        {
            "run": run.pathspec,
            "status": run.status,
            "user": run.user,
            "created_at": time_of(run.created_at),
            "tasks": run.tasks,
            "bytes": size(run.bytes) if form == "table" else run.bytes,
            "kept_because": run.kept_because,
            **({} if form == "table" else {"deleted": run.id in ids}),
        }
        for run in candidates
    ]
    output.echo(rows, form)


# --- vacuum


@command(STORE, FORM)
def vacuum(form: str) -> None:
    """Give back the space that deleted runs and crashes left.

    The file is written again, without its gaps, if no other process uses it.

    Example:
        flowstore vacuum
    """
    from flowstore.maintenance import vacuum as compaction

    store = opening.active_store()
    done = compaction.vacuum(store)
    if done.why_partly is not None:
        click.echo(f"The file was not rewritten, only its free pages were given back: {done.why_partly}.", err=True)
    if form == "table":
        click.echo(f"{store.path.name}: {size(done.before_bytes)} before, {size(done.after_bytes)} now.")
    else:
        row = {"before_bytes": done.before_bytes, "after_bytes": done.after_bytes, "why_partly": done.why_partly}
        output.echo([row], form)


# --- check


@command(STORE_PATH, FORM)
@click.option("--deep", is_flag=True, help="Also compare all stored bytes with their hashes.")
@click.option("--repair", is_flag=True, help="Drop what cannot be read, and say so; all else stays.")
def check(deep: bool, repair: bool, store: str | None, form: str) -> int:
    """Check that the store is sound.

    Damaged pages, missing references, and bytes that do not match their hash are reported. Exits with 1 where
    something is wrong. With --repair, a file with damaged pages is replaced by a new one with what could be read, and
    is kept as FILE.damaged.

    Example:
        flowstore check --deep
    """
    from flowstore.maintenance import check as checks

    if repair:
        return _repair(store, form)
    try:
        report = checks.check(_opened(store), deep=deep)
    except StoreCorrupt as error:
        report = checks.Report([checks.unopened(str(error))], [], 0, 0)
    for note in report.notes:
        click.echo(safe(f"Note: {note.where}: {note.problem}. What to do: {note.remedy}."), err=True)
    if report.problems or form != "table":
        _echo_problems(report.problems, form)
    if form == "table" and not report.problems:
        click.echo(f"{counted(report.runs, 'run')}, {counted(report.blobs, 'stored value')}: nothing wrong")
    return int(bool(report.problems))


def _opened(store: str | None) -> Database:
    if store:
        opening.use_store(store)
    return opening.active_store()


def _echo_problems(problems: Sequence[Problem], form: str) -> None:
    if form != "table":
        keys = ("kind", "where", "problem", "remedy")
        output.echo([{key: getattr(problem, key) for key in keys} for problem in problems], form)
        return
    for problem in problems:
        click.echo(safe(f"{problem.where}: {problem.problem}. What to do: {problem.remedy}."))


def _repair(store: str | None, form: str) -> int:
    from flowstore.maintenance import repair as repairs

    done = repairs.Repaired()
    try:
        opened = _opened(store)
    except StoreCorrupt:
        path = Path(store).absolute() if store else opening.find_path()
        assert path is not None  # it is there, and could not be opened
        repairs.save(path, done)
        opened = _opened(store)
    more = repairs.repair(opened)
    problems = [*done.problems, *more.problems]
    damaged = done.damaged or more.damaged
    if form == "table":
        for problem in problems:
            click.echo(safe(f"{problem.where}: {problem.problem}: {problem.repair}"))
    else:
        _echo_problems([attrs.evolve(problem, remedy=problem.repair) for problem in problems], form)
    if damaged is not None:
        click.echo(f"{opened.path.name} is a new file now. The damaged one is kept as {damaged.name}.", err=True)
    for problem in more.left:
        click.echo(safe(f"Still wrong: {problem.where}: {problem.problem}"), err=True)
    if not (problems or more.left or damaged) and form == "table":
        click.echo("Nothing was wrong.")
    return int(bool(more.left))
