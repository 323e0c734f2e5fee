"""Imports the runs of Metaflow's local store, the folder `.metaflow`: of all that are finished, or nothing.

A run is recognised by its flow, its id, its user, its time and the hashes of its values, so importing twice is
importing once, and no folder can take the place of another one's run. It gets new ids here, and its tags, times, logs,
artifacts and cards. `origins` keeps its pathspec in Metaflow, and `tasks.imported_from` that of each task: the Client
finds them by these, too.

Nothing in the folder is believed: links are not followed, names and sizes are checked, hashes compared, and no pickle
is loaded (see `values`). All runs are read before the first row is written, so that one message names all that is
damaged. Values come first, under a lease (see `store.staging`); then all rows in one transaction.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowstore.errors import FlowstoreError
from flowstore.progress import Progress
from flowstore.sqlite.database import Database
from flowstore.store import origins, records, schema, trust
from flowstore.store.staging import Staging
from flowstore.text import counted, size
from flowstore.transfer.metaflow_history.attachments import stage_card
from flowstore.transfer.metaflow_history.folder import Folder, Problem, Report, flow_folders, root_of
from flowstore.transfer.metaflow_history.reader import Reader
from flowstore.transfer.metaflow_history.rows import Writer, vouch
from flowstore.transfer.metaflow_history.runs import Run, is_internal
from flowstore.transfer.metaflow_history.values import Artifact, Values

_JUST_NOW_S = 1.0  # no run takes longer from one task to the next


@attrs.define
class Imported:
    """The result of an import.

    Attributes:
        runs: the pathspec in Metaflow and the pathspec here of each run that was added.
        known: the pathspecs in Metaflow of those that were here already.
        running: of those that are still going on.
        copied_bytes: how many bytes of values were read.
        untrusted: how many pickles nobody vouches for.
        same_address: of runs whose address in Metaflow others have here, that address, and the pathspecs of all here.
        kept_apart: the tags that would have put a run into a production namespace, and what they are now.
    """

    runs: list[tuple[str, str]] = attrs.field(factory=list)
    known: list[str] = attrs.field(factory=list)
    running: list[str] = attrs.field(factory=list)
    copied_bytes: int = 0
    untrusted: int = 0
    same_address: dict[str, list[str]] = attrs.field(factory=dict)
    kept_apart: dict[str, str] = attrs.field(factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        """The result as one row of JSON."""
        runs = [{"origin": there, "run": here} for there, here in self.runs]
        return {**attrs.asdict(self), "runs": runs}

    def summary(self, path: Path) -> list[str]:
        """Return what was done to the store at a path, in a sentence or two."""
        text = f"Imported {counted(len(self.runs), 'run')} ({size(self.copied_bytes)}) of Metaflow into {path}."
        if known := len(self.known):
            text += f" {known} of {known + len(self.runs)} {'was' if known == 1 else 'were'} here already."
        return [text]

    @property
    def notes(self) -> list[str]:
        """Lines that say more of it."""
        notes = []
        if self.untrusted:
            notes.append(
                f"{counted(self.untrusted, 'artifact')} stayed {'a pickle' if self.untrusted == 1 else 'pickles'}, "
                "which nobody loads until you vouch for the folder: import it again with --trust."
            )
        for there, here in self.same_address.items():
            notes.append(
                f"{there} is the address in Metaflow of {counted(len(here), 'run')} with different values: "
                f"{', '.join(here)}. Look at them, and remove what is not yours: flowstore delete {here[0]}"
            )
        for tag, kept in self.kept_apart.items():
            notes.append(f"Runs tagged {tag} there are tagged {kept} here: that namespace is this store's production.")
        running = (
            f"Skipped {pathspec}, which is still running: import again when it has ended." for pathspec in self.running
        )
        return [*notes, *running]


def import_history(open_store: Callable[[], Database], path: Path, *, trusted: bool = False) -> Imported:
    """Add the runs of Metaflow's local store.

    Args:
        open_store: opens the store where they go, or creates it, once the folder was looked at.
        path: the folder `.metaflow`, or the one that it is in.
        trusted: whether their pickles may be loaded from now on.

    Raises:
        FlowstoreError: there is no such folder, or something in it is damaged; nothing was added.
    """
    folder = Folder(root_of(path))
    store = open_store()
    store.use_wal()  # others may read while this writes
    records.record_dead_runs(store)
    staging = Staging(store)
    try:
        history = _History(store, folder, Values(folder, staging), trusted=trusted)
        runs = history.read()
        history.stage(runs)
        staging.wait()
        with store.write() as db:
            schema.complete(db)
            history.write(db, runs)
    finally:
        staging.close()
    return history.done


class _History:
    """The runs of one folder, on their way into a store."""

    def __init__(self, store: Database, folder: Folder, values: Values, *, trusted: bool) -> None:
        self._store = store
        self._folder = folder
        self._values = values
        self._trusted = trusted
        self._vouched: dict[str, set[bytes]] = {}  # by the uuid of a run that is here, the hashes of its values there
        self._here: dict[str, int] = {}  # by their addresses in Metaflow, those runs of the folder that are here
        self.done = Imported()

    def read(self) -> list[Run]:
        """Return the runs that are new here, the oldest first.

        Raises:
            FlowstoreError: names what is damaged.
        """
        report = Report(self._folder.root)
        reader = Reader(self._folder, self._values, report)
        flows = [*flow_folders(self._folder.root)]
        ids = [(flow, run_id) for flow in flows for run_id in reader.run_ids(flow)]
        known = {row["uuid"]: int(row["id"]) for row in self._store.rows("select id, uuid from runs")}
        if self._trusted:
            unverified = self._store.rows("select distinct r.uuid from unverified u join runs r on r.id = u.run_id")
            self._vouched = {row["uuid"]: set() for row in unverified}
        alive = _named_by_processes()
        runs = []
        with Progress("Reading", len(ids), items=True) as progress:
            for flow, run_id in ids:
                progress.add(1)
                with report.collecting():
                    run = self._read(reader, flow, run_id, known, alive)
                    if run is not None:
                        runs.append(run)
        report.check()
        return sorted(runs, key=lambda run: (run.created_at, run.id))

    def _read(self, reader: Reader, flow: str, run_id: str, known: Mapping[str, int], alive: set[str]) -> Run | None:
        """Return a run, or `None` where it is here already, or still going on."""
        path = f"{flow}/{run_id}"
        try:
            uuid = reader.uuid(flow, run_id)
            run = None if uuid in known else reader.run(flow, run_id, uuid)
        except Problem:
            if run_id not in alive:
                raise
            uuid, run = "", None  # it is being written
        if uuid in known:
            self.done.known.append(path)
            self._here[path] = known[uuid]
            if uuid in self._vouched:  # another folder may have brought it, with other bytes
                self._vouched[uuid] = self._values.hashes(_artifacts(reader.run(flow, run_id, uuid)))
            return None
        if run is None or (run.status != "successful" and (run_id in alive or self._goes_on(path, run_id))):
            self.done.running.append(path)
            return None
        return run

    def _goes_on(self, path: str, run_id: str) -> bool:
        """Return whether an unfinished run goes on: one that has just changed may be between two tasks."""
        changed_at = self._folder.newest_change(path)
        if not 0 <= time.time() - changed_at < _JUST_NOW_S:
            return False
        time.sleep(_JUST_NOW_S)
        return self._folder.newest_change(path) != changed_at or run_id in _named_by_processes()

    def stage(self, runs: Sequence[Run]) -> None:
        """Bring the values of runs into the store, where nobody sees them yet.

        Raises:
            FlowstoreError: names what is missing or damaged.
        """
        report = Report(self._folder.root)
        wanted = {(artifact.flow, artifact.sha1): artifact for run in runs for artifact in _artifacts(run)}
        total = sum(artifact.size_bytes or 0 for artifact in wanted.values())
        _check_room(self._store.path, total)
        cards = [card for run in runs for task in run.tasks for attempt in task.attempts for card in attempt.cards]
        with Progress("Importing", total) as progress:
            for artifact in wanted.values():
                with report.collecting():
                    self._values.stage(artifact)
                progress.add(artifact.size_bytes or 0)
            for card in cards:
                with report.collecting():
                    stage_card(self._values, self._folder, card)
        report.check()
        self.done.copied_bytes = self._values.read_bytes

    def write(self, db: sqlite3.Connection, runs: Sequence[Run]) -> None:
        """Write the rows of runs, in the caller's transaction."""
        trust.claim(db, self._store.uuid)
        known = {row["uuid"]: int(row["id"]) for row in db.execute("select id, uuid from runs")}
        writer = Writer(db, self._store, self._folder, self._values, self._here, trusted=self._trusted)
        report = Report(self._folder.root)
        for run in runs:
            if run.uuid in known:  # somebody else has imported it meanwhile
                self.done.known.append(run.pathspec)
                self._here[run.pathspec] = known[run.uuid]
                continue
            with report.collecting():  # problems of logs and of packages of code, which are read only now
                others = [f"{run.flow}/{run_id}" for run_id in origins.runs_of_metaflow(self._store, run.pathspec)]
                here = writer.write(run)
                self.done.runs.append((run.pathspec, here))
                if others:
                    self.done.same_address[run.pathspec] = [*others, here]
        report.check()
        for uuid, shas in self._vouched.items():
            vouch(db, self._store, uuid, shas)
        self.done.kept_apart, self.done.untrusted = writer.kept_apart, writer.untrusted


def _artifacts(run: Run) -> Iterator[Artifact]:
    """Yield the artifacts of a run that are imported."""
    yield from (artifact for _, artifact in run.parameters.values())
    for task in run.tasks:
        for attempt in task.attempts:
            yield from (artifact for name, artifact in attempt.artifacts.items() if not is_internal(name))


def _check_room(path: Path, total: int) -> None:
    import shutil

    free = shutil.disk_usage(path.parent).free
    if total > free:
        raise FlowstoreError(
            f"The artifacts would take {total} bytes, and {free} are free in {path.parent}. Nothing was imported."
        )


def _named_by_processes() -> set[str]:
    """Return the numbers that look like run ids in the command lines of this machine's processes.

    Metaflow's local store does not say whether a run is still going on, but the command line of a task names its run.
    """
    ids: set[str] = set()
    try:
        processes = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except OSError:
        return ids
    for process in processes:
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:  # it has ended, or is somebody else's
            continue
        ids.update(match.decode() for match in re.findall(rb"[0-9]{1,18}", line) if len(match) >= 10)
    return ids
