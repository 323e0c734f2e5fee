"""A stranger's descriptions of values: plain JSON, metrics and pictures that no flowstore wrote."""

from __future__ import annotations

import contextlib
import json
import sqlite3

import pytest

from support.cli import Script, command
from support.flows import LINEAR, flow_source
from support.hostile import TRICKS, UNSAFE, changed
from support.stores import complete

PNG = b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR" + (4).to_bytes(4) + (3).to_bytes(4) + bytes(9)
HEAD = """
import dataclasses

@dataclasses.dataclass
class Score:
    accuracy: float
"""
START = "self.metrics, self.pair, self.score = {'accuracy': 0.5}, (1, 2), Score(0.25)"
PAIR = "(select blob_id from artifacts where name = 'pair')"
SCORE = "(select blob_id from artifacts where name = 'score')"
TRUE_METRICS = [("metrics.accuracy", 0.5), ("pair.0", 1.0), ("pair.1", 2.0), ("score.accuracy", 0.25)]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A store with values of a safe codec and of pickle, and a picture."""
    folder = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWSTORE_HOME", str(folder / "home"))
        script = Script(folder, flow_source(LINEAR, head=HEAD, start=START))
        script("run")
        complete(script.db)
    with contextlib.closing(sqlite3.connect(script.db)) as connection, connection:
        connection.execute(f"insert into pictures values ({SCORE}, ?)", (PNG,))
    return script.db


@pytest.fixture
def path(original, tmp_path):
    """A copy of it, which is a stranger's to the test."""
    (tmp_path / "stranger.db").write_bytes(original.read_bytes())
    return tmp_path / "stranger.db"


def rows(path, sql):
    """The answer of plain SQLite."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


METRICS = "select name, number from metrics order by name"


def test_what_is_sound_arrives(path, tmp_path):
    """The store as it was written is imported from a stranger too, and nothing is wrong with it."""
    command("check", "--deep", "--store", path)
    command("import", path, "--store", tmp_path / "target.db")
    assert rows(tmp_path / "target.db", METRICS) == TRUE_METRICS
    assert rows(tmp_path / "target.db", "select png from pictures") == [(PNG,)]
    command("check", "--deep", "--store", tmp_path / "target.db")


WRONG = {  # a change, and whether an import takes the rest of the file
    "a value that is no JSON": (f"update blob_values set value = 'no' where blob_id = {PAIR}", True),
    "a pickle's that is none": (f"update blob_values set value = '[1' where blob_id = {SCORE}", True),
    "a value that is too large": ("update blob_values set value = '\"' || hex(zeroblob(40000)) || '\"'", False),
    "a value that lies": (f"update blob_values set value = '[9,9]' where blob_id = {PAIR}", True),
    "a value that is no text": (f"update blob_values set value = x'5b5d' where blob_id = {PAIR}", False),
    "an exactness of 7": ("update blob_values set exact = 7", False),
    "a number that its JSON is not": ("update blob_values set magnitude = 5.0", True),
    "a number that is text": ("update blob_values set magnitude = 'much'", False),
    "a metric that is text": ("update numbers set magnitude = 'much'", False),
    "a metric that is NaN": ("update numbers set magnitude = null", False),
    "a metric that is final 7 times": ("update numbers set final = 7", False),
    "a metric of a huge name": ("update numbers set name = artifact || '.' || hex(zeroblob(5000000))", False),
    "a metric of another name": ("update numbers set name = 'loss'", False),
    "a metric of an unknown task": ("update numbers set task_id = 99", False),
    "a picture that is none": ("update pictures set png = x'3c7376673e'", False),
    "a picture that is text": ("update pictures set png = '<svg>'", False),
    "a picture of 20 MB": ("update pictures set png = x'89504e470d0a1a0a' || zeroblob(20000000)", False),
}


def without_types(path, statement):
    """Make a change that the types of the tables forbid."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma writable_schema = on")
        names = "('blob_values', 'numbers', 'pictures')"
        before = connection.execute(f"select name, sql from sqlite_master where name in {names}").fetchall()
        loose = "replace(replace(sql, ') strict', ')'), ' not null', '')"
        connection.execute(f"update sqlite_master set sql = {loose} where name in {names}")
    changed(path, (statement,))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma writable_schema = on")
        connection.executemany("update sqlite_master set sql = ? where name = ?", [(sql, name) for name, sql in before])


@pytest.mark.parametrize("what", WRONG)
def test_an_import_refuses_it_or_makes_it_anew(path, tmp_path, what):
    """The values and metrics that arrive are those of the bytes."""
    statement, is_taken = WRONG[what]
    without_types(path, statement)
    target = tmp_path / "target.db"
    ran = command("import", path, "--store", target, expect=0 if is_taken else 1)
    if not is_taken:
        assert ran.stderr.startswith("Error: ")
        assert "Nothing was imported" in ran.stderr or "damaged" in ran.stderr
        assert not target.exists() or rows(target, "select 1 from runs") == []
        return
    assert dict(rows(target, "select name, value from artifact_values where name = 'pair'")) == {"pair": "[1,2]"}
    assert set(rows(target, METRICS)) >= set(TRUE_METRICS[:3])
    command("check", "--deep", "--store", target)


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.quick("a value that lies", "a number that is text", "a metric of another name", "a picture that is none")
def test_a_check_names_it_and_a_repair_mends_it(path, what):
    """What is left is sound."""
    without_types(path, WRONG[what][0])
    found = json.loads(command("check", "--deep", "--json", "--store", path, expect=1).stdout)
    assert found
    command("check", "--deep", "--repair", "--store", path)
    command("check", "--deep", "--store", path)


@pytest.mark.parametrize("args", [
    ("show", "LinearFlow/1/start/1"), ("show", "LinearFlow/1/start/1", "--json"), ("show", "LinearFlow/1"),
    ("runs", "--columns", f"metrics.{TRICKS}".replace("\x00", "")), ("runs", "--json"),
    ("sql", "select * from metrics"), ("sql", "select name, value from artifact_values"),
    ("diff", "LinearFlow/1", "LinearFlow/1"), ("search", "metrics"), ("note", "LinearFlow/1"),
    ("runs", "--sort", f"-metrics.{TRICKS}".replace("\x00", "")), ("runs", "--sort", "alpha"),
])  # fmt: skip
@pytest.mark.parametrize("value", [json.dumps(TRICKS, ensure_ascii=False), TRICKS, "[" * 60_000])
def test_no_text_of_a_stranger_commands_the_terminal(path, args, value):
    """Names of metrics and JSON of pickles are shown without control characters, and no command fails over them."""
    flow = rows(path, "select name from flows")[0][0]
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("update numbers set name = 'metrics.' || ? where artifact = 'metrics'", (TRICKS,))
        connection.execute(f"update blob_values set value = ? where blob_id = {SCORE}", (value,))
        connection.execute("update runs set note = ?", (TRICKS,))
    ran = command(*(arg.replace("LinearFlow", flow) for arg in args), "--store", path)
    assert UNSAFE.search(ran.stdout + ran.stderr) is None
