"""`delete`, `vacuum` and `check`: a store that stays small and sound."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowstore.cli import completion
from flowstore.cli.admin import command, with_tags
from flowstore.errors import FlowstoreError
from flowstore.sqlite.typed_rows import time_of
from flowstore.store import opening
from flowstore.text import counted, safe

if TYPE_CHECKING:
    from flowstore.maintenance.delete import Candidate
    from flowstore.sqlite.database import Store
    from flowstore.store.problems import Problem

_UNITS_S = {"m": 60, "h": 3600, "d": 86400, "w": 604800}


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """How long ago, in seconds: 45m, 12h, 30d, 2w."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})([mhdw])", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not a duration: give a number and m, h, d or w, as in 45m, 12h, 30d.")
    return int(match[1]) * _UNITS_S[match[2]]


@command
@click.argument("pathspecs", nargs=-1, metavar="[PATHSPEC]...", shell_complete=completion.pathspecs)
@click.option(
    "--older-than", "older_than_s", callback=_seconds, metavar="30d", help="Created longer ago than this: m, h, d or w."
)
@click.option("--flow", metavar="F", shell_complete=completion.flows, help="Only runs of this flow.")
@with_tags
@click.option("--keep-latest", type=click.IntRange(0), metavar="N", help="But not the newest N of each flow.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--force", is_flag=True, help="Also the newest successful run of a production namespace.")
def delete(
    pathspecs: tuple[str, ...],
    older_than_s: int | None,
    flow: str | None,
    tags: tuple[str, ...],
    keep_latest: int | None,
    dry_run: bool,
    yes: bool,
    force: bool,
    form: str,
) -> int:
    """Delete runs, and the bytes that nothing else uses: flows (Flow), runs (Flow/5), or old ones (--older-than).

    A run that is running is never deleted, nor one that a running run resumes. The newest successful run of a
    production namespace stays unless --force is given.
    """
    from flowstore.cli import render
    from flowstore.maintenance import delete as deleting
    from flowstore.store.records import now_ms
    from flowstore.transfer.selection import Selection, run_ids

    if not (pathspecs or flow or tags or older_than_s is not None or keep_latest is not None):
        raise click.UsageError("Say which runs: by pathspecs, --older-than, --flow, --tag or --keep-latest.")
    if not (dry_run or yes or sys.stdin.isatty()):
        raise click.UsageError("There is no terminal to ask on: give --yes to delete, or --dry-run to look first.")
    store = opening.active_store()
    if not (store.writable or dry_run):
        raise FlowstoreError(f"{store.path} can't be written, so nothing can be deleted from it: it is read-only.")
    older = None if older_than_s is None else now_ms() - older_than_s * 1000
    selection = Selection(pathspecs=pathspecs, flow=flow, tags=tags, older_than_ms=older, keep_latest=keep_latest)
    found = deleting.candidates(store, run_ids(store, selection), force=force)
    doomed = [each for each in found if each.kept_because is None]
    if form == "table" and found:
        _echo_candidates(found, form, ())
    for each in found:
        if each.kept_because is not None:
            click.echo(safe(f"{each.pathspec} is not deleted: {each.kept_because}."), err=True)
    said = f"{counted(len(doomed), 'run')}, {render.size(sum(each.bytes for each in doomed))}"
    if dry_run or not doomed:
        click.echo(f"Would delete {said}." if doomed else "There is nothing to delete.", err=True)
        if form != "table":
            _echo_candidates(found, form, ())
        return int(bool(found) and not doomed and not dry_run)
    if not yes and not click.confirm(f"Delete {said}?", err=True):
        click.echo("Nothing was deleted.", err=True)
        return 1
    done = deleting.delete(store, doomed, force=force)
    if form != "table":
        _echo_candidates(found, form, done.runs)
    click.echo(
        f"Deleted {counted(len(done.runs), 'run')}. {store.path.name} has {render.size(done.after_bytes)} "
        f"after {render.size(done.before_bytes)}.",
        err=True,
    )
    return 0


def _echo_candidates(found: Sequence[Candidate], form: str, gone: Sequence[int]) -> None:
    from flowstore.cli import render

    rows = [
        {
            "run": each.pathspec,
            "status": each.status,
            "user": each.user,
            "created_at": time_of(each.created_at),
            "tasks": each.tasks,
            "bytes": each.bytes,
            "kept_because": each.kept_because,
        }
        for each in found
    ]
    if form == "table":
        render.echo([{**row, "bytes": render.size(each.bytes)} for row, each in zip(rows, found, strict=True)], form)
    else:
        done = set(gone)
        render.echo([{**row, "deleted": each.id in done} for row, each in zip(rows, found, strict=True)], form)


@command
def vacuum(form: str) -> None:
    """Give the space back that deleted runs and crashes left, and write the file anew if nobody else uses it."""
    from flowstore.cli import render
    from flowstore.maintenance import vacuum as vacuuming

    store = opening.active_store()
    done = vacuuming.vacuum(store)
    if done.why_partly is not None:
        click.echo(f"The file was not written anew, its free pages were given back: {done.why_partly}.", err=True)
    if form == "table":
        click.echo(f"{store.path.name}: {render.size(done.before_bytes)} before, {render.size(done.after_bytes)} now.")
    else:
        render.echo(
            [{"before_bytes": done.before_bytes, "after_bytes": done.after_bytes, "why_partly": done.why_partly}], form
        )


@command
@click.option("--deep", is_flag=True, help="Compare every content with its hash, too.")
@click.option("--repair", is_flag=True, help="Drop what can't be read, and say so; all else stays.")
def check(deep: bool, repair: bool, store: str | None, form: str) -> int:
    """Look for what is wrong with the store: damaged pages, dangling references, contents that don't match their hash.

    With --repair, a file with damaged pages is replaced by a new one with what could be read, and is kept as
    FILE.damaged.
    """
    from flowstore.errors import StoreCorrupt
    from flowstore.maintenance import check as checking

    if repair:
        return _repair(store, form)
    try:
        report = checking.check(_opened(store), deep=deep)
    except StoreCorrupt as error:
        report = checking.Report([checking.unopened(str(error))], [], 0, 0)
    for note in report.notes:
        click.echo(safe(f"Note: {note.where}: {note.problem}. What to do: {note.remedy}."), err=True)
    if report.problems or form != "table":
        _echo_problems(report.problems, form)
    if form == "table" and not report.problems:
        click.echo(f"{counted(report.runs, 'run')}, {counted(report.contents, 'content')}: nothing wrong")
    return int(bool(report.problems))


def _opened(store: str | None) -> Store:
    if store:
        opening.use_store(store)
    return opening.active_store()


def _echo_problems(problems: Sequence[Problem], form: str) -> None:
    from flowstore.cli import render

    if form != "table":
        keys = ("kind", "where", "problem", "remedy")
        render.echo([{key: getattr(problem, key) for key in keys} for problem in problems], form)
        return
    for problem in problems:
        click.echo(safe(f"{problem.where}: {problem.problem}. What to do: {problem.remedy}."))


def _repair(store: str | None, form: str) -> int:
    import attrs

    from flowstore.errors import StoreCorrupt
    from flowstore.maintenance import repair as repairing

    done = repairing.Repaired()
    try:
        opened = _opened(store)
    except StoreCorrupt:
        path = Path(store).absolute() if store else opening.find_path()
        assert path is not None  # it was found, and could not be opened
        repairing.save(path, done)
        opened = _opened(store)
    more = repairing.repair(opened)
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
