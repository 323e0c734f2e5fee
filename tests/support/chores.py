"""What is killed besides runs: each command that changes a store, in a folder that is made for it."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import sqlite3
from pathlib import Path
from unittest import mock

from flowstore.errors import StoreCorrupt
from flowstore.store import schema
from flowstore.store.opening import open_store
from support.cli import Script, command
from support.flows import LINEAR, flow_source
from support.killing import assert_at_rest, assert_sound, killed_after, killed_at
from support.recording import store_with

RUNS = (
    {"x": 1, "parameters": {"alpha": 0.5}, "code": "print('one')", "tags": ["a"]},
    {"width": 2, "x": range(2), "tags": ["b"]},
    {"x": os.urandom(1 << 21)},
    {"width": 3, "fails_at": "join", "x": "y" * 70_000},
    {"width": 3, "resumes": 4, "x": "y" * 70_000},
)


class Chore:
    """A command that changes a store, killed, looked at, and done again.

    Args:
        folder: empty, of the test.
    """

    moments = 30  # about how many there are: at which of them to kill is chosen among these

    def __init__(self, folder):
        self.folder = folder
        self.db = folder / "flowstore.db"

    def prepare(self):
        """Make what the command works on."""
        store_with(self.db, *RUNS)
        self.rows = dump(self.db)

    def command(self):
        """The command, for `python`."""
        raise AssertionError  # each chore has its own

    def verify(self):
        """Look at what a killed process left; the store itself has been found sound."""
        assert dump(self.db) == self.rows

    def promised(self, said):
        """Look for what the command has said to have done."""

    def again(self):
        """Do it again, to its end, and look at what came of it."""
        command(*self.command()[2:])

    def moved(self, folder):
        """The same in another folder, into which its files were copied."""
        found = copy.copy(self)
        found.folder, found.db = folder, folder / self.db.name
        return found

    def kill(self, at):
        """Let it die at its moment number `at`; gives the moment, `None` if it came to its end before."""
        self.prepare()
        return self._verified(killed_at(self.folder, at, *self.command()))

    def strike(self, rng):
        """Let it die at random; gives whether it did."""
        self.prepare()
        return self._verified(killed_after(self.folder, rng.uniform(0.1, 1.5), *self.command()))

    def _verified(self, killed):
        if self.db.exists():
            self.sound()
        self.verify()
        self.again()
        self.sound()
        return killed.moment

    def sound(self):
        """Every store is sound and at rest."""
        for path in self.folder.glob("*.db"):
            assert_sound(path)


class Export(Chore):
    """Where the new store is to be there is nothing, or all of it."""

    def command(self):
        return ["-m", "flowstore", "export", "out.db", "--store", self.db]

    def verify(self):
        super().verify()
        out = self.folder / "out.db"
        if out.exists():
            assert ids(out) == [1, 2, 3, 4, 5]

    def promised(self, said):
        assert "Exported" not in said or ids(self.folder / "out.db") == [1, 2, 3, 4, 5]

    def again(self):
        command(*self.command()[2:], "--force", folder=self.folder)
        assert ids(self.folder / "out.db") == [1, 2, 3, 4, 5]


class Replace(Export):
    """Where a store is to be replaced, there is the old one or the new one."""

    def prepare(self):
        super().prepare()
        store_with(self.folder / "out.db", {"flow": "Old"})

    def command(self):
        return [*super().command(), "--force"]

    def verify(self):
        assert dump(self.db) == self.rows
        assert ids(self.folder / "out.db") in ([1], [1, 2, 3, 4, 5])


class Import(Chore):
    """All runs of the other file have come, or none."""

    def prepare(self):
        store_with(self.db, {"flow": "G"})
        store_with(self.folder / "in.db", *RUNS)

    def command(self):
        return ["-m", "flowstore", "import", "in.db", "--store", self.db]

    def verify(self):
        assert len(ids(self.db)) in {1, 6}

    def again(self):
        command(*self.command()[2:], folder=self.folder)
        assert len(ids(self.db)) == 6
        assert rubbish(self.db) == 0


class Delete(Chore):
    """Each run is there as a whole, or not at all; those that were not meant stay."""

    moments = 60

    def command(self):
        return ["-m", "flowstore", "delete", "--flow", "F", "--keep-latest", "2", "--yes", "--store", self.db]

    def verify(self):
        assert {4, 5} <= set(ids(self.db))

    def again(self):
        super().again()
        assert ids(self.db) == [4, 5]
        command("vacuum", "--store", self.db)  # bytes of runs that are gone, whose delete did not come to its end
        assert rubbish(self.db) == 0


class Vacuum(Chore):
    """Nothing but space changes."""

    moments = 60

    def prepare(self):
        store_with(self.db, *RUNS)
        with contextlib.closing(sqlite3.connect(self.db, isolation_level=None)) as connection:
            connection.execute("create table waste (x)")
            connection.execute("insert into waste values (zeroblob(3000000))")
            connection.execute("drop table waste")
            connection.execute("insert into blobs (codec, size_bytes, type, preview) values ('bytes', 9, 'bytes', '')")
        self.rows = dump(self.db, without=("blobs",))

    def command(self):
        return ["-m", "flowstore", "vacuum", "--store", self.db]

    def verify(self):
        assert dump(self.db, without=("blobs",)) == self.rows

    def again(self):
        super().again()
        self.verify()
        assert rubbish(self.db) == 0


class Mend(Chore):
    """A store with rows that don't fit together is mended, or as it was."""

    def prepare(self):
        store_with(self.db, *RUNS)
        with contextlib.closing(sqlite3.connect(self.db, isolation_level=None)) as connection:
            connection.execute("delete from steps where run_id = 2 and name = 'body'")

    def command(self):
        return ["-m", "flowstore", "check", "--repair", "--store", self.db]

    def sound(self):
        open_store(self.db).close()
        assert_at_rest(self.db)

    def verify(self):
        assert ids(self.db) == [1, 2, 3, 4, 5]

    def again(self):
        super().again()
        assert_sound(self.db)


class Salvage(Mend):
    """In the place of a file with a damaged page there is that file, or the new one; the old one is kept."""

    moments = 45

    def prepare(self):
        store_with(self.db, *RUNS)
        with contextlib.closing(sqlite3.connect(self.db)) as connection:
            page = connection.execute("select rootpage from sqlite_master where name = 'log_chunks'").fetchone()[0]
        with self.db.open("r+b") as file:
            file.seek((page - 1) * schema.PAGE_SIZE)
            file.write(os.urandom(schema.PAGE_SIZE))
        self.damaged = self.db.read_bytes()

    def sound(self):
        with contextlib.suppress(StoreCorrupt):
            open_store(self.db).close()
        beside = {path.name for path in self.folder.iterdir() if self.db.name in path.name}
        assert beside - {"flowstore.db.damaged", "flowstore.db.damaged-2"} == {"flowstore.db"}

    def verify(self):
        kept = self.folder / "flowstore.db.damaged"
        assert self.db.read_bytes() == self.damaged or kept.read_bytes() == self.damaged
        assert ids(self.db) == [1, 2, 3, 4, 5]

    def again(self):
        command(*self.command()[2:])
        assert_sound_with_notes(self.db)
        assert ids(self.db) == [1, 2, 3, 4, 5]
        assert (self.folder / "flowstore.db.damaged").read_bytes() == self.damaged


class Migrate(Chore):
    """An older store is as old as it was, or as new as can be, with all that was in it."""

    version = 1

    def prepare(self):
        older_store(self.db, self.version)
        self.rows = runs_of(self.db)

    def command(self):
        return ["-m", "flowstore", "vacuum", "--store", self.db]

    def verify(self):
        assert runs_of(self.db) == self.rows
        assert version_of(self.db) in {self.version, schema.SCHEMA_VERSION}

    def again(self):
        super().again()
        assert runs_of(self.db) == self.rows
        assert version_of(self.db) == schema.SCHEMA_VERSION


class MigrateSome(Migrate):
    """The same from a version that lacks less."""

    version = 4


FLOW = flow_source(LINEAR, head="", start="self.x = 1")
SCHEDULED = FLOW.replace("class F(", "@schedule(hourly=True)\nclass F(")


class Deploy(Chore):
    """It is deployed or not; in either case the same user can deploy again."""

    def prepare(self):
        self.script = Script(self.folder, FLOW)

    def command(self):
        return ["flow.py", "deploy", "create"]

    def verify(self):
        pass

    def again(self):
        self.script("deploy", "create")
        assert self.script.sql("select count(*) from production_tokens") == [1]
        home = Path(os.environ["FLOWSTORE_HOME"])
        valid = self.script.sql("select token from production_tokens")[0]
        assert valid in "".join(path.read_text() for path in home.glob("tokens/*.json"))
        assert list(home.glob("tokens/.*")) == []


class Renew(Deploy):
    """A new token is made or not; in either case the same user can deploy again."""

    def prepare(self):
        super().prepare()
        self.script("deploy", "create")

    def command(self):
        return [*super().command(), "--generate-new-token"]


class Trigger(Deploy):
    """The run that was triggered dies with its trigger, and the folder that it ran from goes with the next one."""

    def prepare(self):
        super().prepare()
        self.script("deploy", "create")

    def command(self):
        return ["flow.py", "deploy", "trigger"]

    def again(self):
        self.script("deploy", "trigger")
        statuses = self.script.sql("select status from run_summary order by run_id")
        assert statuses[-1] == "successful"
        assert set(statuses[:-1]) <= {"dead", "successful"}
        assert [*Path(os.environ["TMPDIR"]).glob("flowstore-*")] == []


class Schedule(Deploy):
    """A due time is run at most once, and the next scheduler starts clean."""

    moments = 40

    def prepare(self):
        self.script = Script(self.folder, SCHEDULED)
        self.script("deploy", "create")
        with contextlib.closing(sqlite3.connect(self.db, isolation_level=None)) as connection:
            connection.execute("update deployments set deployed_at = deployed_at - 7200000")

    def command(self):
        return ["-m", "flowstore", "scheduler", "--once", "--store", self.db]

    def again(self):
        command(*self.command()[2:])
        assert self.script.sql("select count(*) from scheduler") == [0]
        statuses = self.script.sql("select status from run_summary")
        assert statuses in ([], ["dead"], ["successful"])


CHORES = {
    "export": Export,
    "export --force": Replace,
    "import": Import,
    "delete": Delete,
    "vacuum": Vacuum,
    "check --repair of rows": Mend,
    "check --repair of pages": Salvage,
    "migration from version 1": Migrate,
    "migration from version 4": MigrateSome,
    "deploy create": Deploy,
    "deploy create --generate-new-token": Renew,
    "deploy trigger": Trigger,
    "scheduler": Schedule,
}


def older_store(path, version):
    """A store as an earlier version made it, with a run."""
    migrations = schema.MIGRATIONS[:version]
    with (
        mock.patch.object(schema, "MIGRATIONS", migrations),
        mock.patch.object(schema, "SCHEMA_VERSION", version),
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection,
    ):
        schema.create(connection, "0.0.1", small=False)
        connection.executescript("""
            insert into flows values (1, 'F');
            insert into runs (id, uuid, flow_id, user, status, created_at, finished_at, last_seen_at, host, boot, pid,
              pid_started, parameters) values (1, 'u', 1, 'tester', 'successful', 1, 2, 2, 'h', '', 1, '', '{}');
            insert into steps values (1, 1, 'start', 1);
            insert into tasks (id, run_id, step_id, status, started_at, finished_at, attempts, attempt_id, transition)
              values (1, 1, 1, 'successful', 1, 2, 1, 1, '{"targets": []}');
            insert into attempts (id, task_id, number, status, started_at, finished_at, log_id)
              values (1, 1, 0, 'successful', 1, 2, 1);
            insert into tags values (1, 'user:tester', '"user:tester"');
            insert into run_tags values (1, 1, 1, 1, 1, 1);
        """)
        if version >= 4:
            connection.execute("insert into tag_pairs values (1, 1, 1, 1, 1)")


def _rows(path, query):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def ids(path):
    """The ids of a store's runs."""
    return [row[0] for row in _rows(path, "select id from runs order by id")]


def runs_of(path):
    """What the views of every version say of a store's runs."""
    run = "run_id, flow, user, status, created_at, finished_at, origin_run_id, parameters, tags, tasks, failed_tasks"
    task = "task_id, run_id, flow, step, status, attempts, started_at, finished_at, foreach_index, origin_pathspec"
    return _rows(path, f"select {run} from run_summary") + _rows(path, f"select {task} from task_summary")


def version_of(path):
    """The schema version."""
    return _rows(path, "pragma user_version")[0][0]


def rubbish(path):
    """How many contents nobody sees."""
    return _rows(path, "select count(*) from blobs where sha is null")[0][0]


def dump(path, without=()):
    """All rows of a store, but for what belongs to whoever writes to it."""
    names = [name for (name,) in _rows(path, "select name from sqlite_master where type = 'table'")]
    kept = set(names) - {"owners", *without}
    return {name: sorted(map(repr, _rows(path, f"select * from {name}"))) for name in kept}


def assert_sound_with_notes(path):
    """A deep check finds nothing, whatever the damaged file beside it is called."""
    kept = [each for each in path.parent.iterdir() if each.name.startswith(f"{path.name}.damaged")]
    assert kept
    aside = path.parent / "aside"
    aside.mkdir()
    for each in kept:
        each.rename(aside / each.name)
    assert_sound(path)
    for each in kept:
        (aside / each.name).rename(each)
    shutil.rmtree(aside)
