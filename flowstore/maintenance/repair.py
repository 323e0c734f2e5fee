"""Repairs a store: what can't be read is dropped and reported; all else stays.

An index is built again from its table. Rows are repaired by the statements that come with each problem. If a page can't
be read, the rest is saved into a new file (`salvage`). Dropping one thing may show another, as a run's tasks if the run
could not be read, so the store is checked again until nothing is wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from flowstore.errors import FlowstoreError, StoreCorrupt
from flowstore.maintenance import vacuum
from flowstore.maintenance.check import check
from flowstore.maintenance.salvage import salvage
from flowstore.sqlite.database import Store
from flowstore.store.problems import Problem

_ROUNDS = 20


@attrs.define
class Repaired:
    """What a repair did.

    Attributes:
        problems: what was wrong, each with what was done in its `repair`.
        damaged: where the damaged file is, if a new one took its place.
        left: what is still wrong.
    """

    problems: list[Problem] = attrs.field(factory=list)
    damaged: Path | None = None
    left: Sequence[Problem] = ()


def repair(store: Store) -> Repaired:
    """Repair all that a deep check finds.

    Raises:
        FlowstoreError: the store can't be written, or another process uses a file that has to be replaced.
    """
    if not store.writable:
        raise FlowstoreError(f"{store.path} can't be written, so it can't be repaired. Copy it to where it can be.")
    done = Repaired()
    reindexed = False
    for _ in range(_ROUNDS):
        done.left = check(store, deep=True).problems
        if not done.left:
            break
        kinds = {problem.kind for problem in done.left}
        repairable = _first(problem for problem in done.left if problem.statements)
        if "page" not in kinds and "index" in kinds and not reindexed:
            reindexed = _reindex(store, done)
        elif ("page" in kinds or not repairable) and done.damaged is None:
            store.close(tidy=False)
            save(store.path, done)
        elif not repairable or not _run(store, repairable, done):
            break
    return done


def _first(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems to fix first: types, then references, because the other rules rely on both."""
    all_of_them = list(problems)
    for kind in ("value", "reference"):
        if of_kind := [problem for problem in all_of_them if problem.kind == kind]:
            return of_kind
    return all_of_them


def save(path: Path, done: Repaired) -> None:
    """Replace a file by what can be read of it; no connection to it may be open here."""
    saved = salvage(path)
    done.damaged = saved.damaged
    done.problems += [
        Problem("page", line.partition(":")[0], line.partition(": ")[2], "", repair="drops what can't be read")
        for line in saved.lost
    ]


def _reindex(store: Store, done: Repaired) -> bool:
    try:
        with store.write() as db:
            db.execute("reindex")
    except (sqlite3.IntegrityError, StoreCorrupt):
        return True  # the table itself is at fault: the next round saves what can be read
    done.problems += [problem for problem in done.left if problem.kind == "index"]
    return True


def _run(store: Store, problems: Sequence[Problem], done: Repaired) -> bool:
    """Run the repairs of these problems in one transaction; return False if a page turns out to be damaged again."""
    try:
        with vacuum.unlinked(store), store.write() as db:
            for problem in problems:
                for statement, values in problem.statements:
                    db.execute(statement, values)
    except StoreCorrupt:
        if done.damaged is not None:
            return False
        store.close(tidy=False)
        save(store.path, done)
        return True
    done.problems += problems
    return True
