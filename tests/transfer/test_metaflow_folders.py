"""Folders of Metaflow that are damaged, half written or hostile: one report, nothing imported; and rarer parts."""

from __future__ import annotations

import collections
import contextlib
import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import time
import tracemalloc

import pytest

import flowstore
from flowstore.cards import get_cards
from flowstore.store.opening import use_store
from support.cli import command
from support.metaflow import NEWEST, History, unpack
from support.shipped import check, sql


@pytest.fixture(scope="module")
def newest(tmp_path_factory):
    return unpack(tmp_path_factory.mktemp("metaflow"))[NEWEST]


@pytest.fixture
def history(newest, tmp_path):
    return History(shutil.copytree(newest, tmp_path / "history"))


@pytest.fixture
def store(tmp_path):
    return tmp_path / "here.db"


@pytest.fixture
def bring(history, store):
    """A function that imports the folder, and returns the flow as the Client sees it."""
    with contextlib.ExitStack() as stack:

        def imported():
            command("import-metaflow", history.root, "--store", store)
            check(store)
            stack.enter_context(use_store(store))
            flowstore.namespace(None)
            return flowstore.Flow("OldFlow")

        yield imported


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def replace_by_link(path, target):
    path.unlink()
    path.symlink_to(target)


def bomb(history):
    """A small file that would be 256 MB, of an artifact that is recorded as short."""
    sha = history.set("end", "x", b"\x80\x04N.")
    with gzip.open(history.flow / "data" / sha[:2] / sha, "wb", 1) as file:
        for _ in range(256):
            file.write(bytes(1 << 20))


def rename(history, name):
    path, record = history.record("end")
    record["objects"][name] = record["objects"]["juices"]
    path.write_text(json.dumps(record))


def address(history, sha):
    path, record = history.record("end")
    record["objects"]["juices"] = sha
    path.write_text(json.dumps(record))


def package(history, *members, script="flow.py"):
    """Give the run a package of code with these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, source in members:
            info = tarfile.TarInfo(name)
            info.size = len(source)
            archive.addfile(info, io.BytesIO(source))
    sha = history.put(buffer.getvalue(), raw=True)
    history.add_fact("start", "code-package", json.dumps({"ds_type": "local", "sha": sha, "location": "/elsewhere"}))
    history.add_fact("start", "script-name", script)
    return sha


def headers(kind):
    """A package of code of which tarfile would keep all: headers without files."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 16 << 20 if kind == tarfile.XGLTYPE else 0
    if kind == tarfile.XGLTYPE:
        return info.tobuf() + b"11 a=aaaaa\n" * ((16 << 20) // 11) + bytes(16 << 20)
    return info.tobuf() * 20_000


def headed(history, kind):
    sha = history.put(gzip.compress(headers(kind), 1), raw=True)
    history.add_fact("start", "code-package", json.dumps({"sha": sha}))
    history.add_fact("start", "script-name", "flow.py")


DAMAGE = {
    "a blob is missing": lambda h: h.blob("end", "juices").unlink(),
    "a blob is cut off": lambda h: truncate(h.blob("end", "juices")),
    "a blob is another": lambda h: h.blob("end", "juices").write_bytes(gzip.compress(b"other")),
    "a blob goes on": lambda h: h.blob("end", "juices").write_bytes(h.blob("end", "juices").read_bytes() + b"x"),
    "a blob is empty": lambda h: h.blob("end", "juices").write_bytes(b""),
    "a bomb": bomb,
    "the record of a run is empty": lambda h: (h.run / "_meta/_self.json").write_text(""),
    "the record of a run is another's": lambda h: edit(h.run / "_meta/_self.json", run_number="7"),
    "the record of a task is missing": lambda h: (h.task("end") / "_meta/_self.json").unlink(),
    "the record of a step is cut off": lambda h: truncate(h.run / "end/_meta/_self.json"),
    "the record of an attempt is cut off": lambda h: truncate(h.record("end")[0]),
    "a record is a list": lambda h: h.record("end")[0].write_text("[]"),
    "a record is deep": lambda h: h.record("end")[0].write_text("[" * 100_000),
    "a time is text": lambda h: edit(h.run / "_meta/_self.json", ts_epoch="yesterday"),
    "a time is far away": lambda h: edit(h.run / "_meta/_self.json", ts_epoch=10**18),
    "tags are a text": lambda h: edit(h.run / "_meta/_self.json", tags="abc"),
    "a tag is no text": lambda h: edit(h.run / "_meta/_self.json", tags=["\ud800"]),
    "a name leads out of the folder": lambda h: rename(h, "../x"),
    "a name has an escape": lambda h: rename(h, "\x1b[31m"),
    "an address leads out of the folder": lambda h: address(h, "../../../../etc/passwd"),
    "an address has an escape": lambda h: address(h, "\x1b[31m" + "a" * 35),
    "a flow has an escape": lambda h: shutil.copytree(h.flow, h.root / "\x1b[31m"),
    "an address is no text": lambda h: address(h, 7),
    "a step has an escape": lambda h: shutil.copytree(h.run / "end", h.run / "\x1b[31m"),
    "a run's id is no number": lambda h: shutil.copytree(h.run, h.flow / "abc"),
    "a blob is a link": lambda h: replace_by_link(h.blob("end", "juices"), "/etc/passwd"),
    "a log is a link": lambda h: replace_by_link(min(h.task("end").glob("*stdout.log")), "/etc/passwd"),
    "a record is a link": lambda h: replace_by_link(h.run / "_meta/_self.json", "/etc/passwd"),
    "a task is a link": lambda h: (h.run / "end" / "77").symlink_to(h.task("start")),
    "a task's file is a pipe": lambda h: os.mkfifo(h.task("end") / "0.extra"),
    "the folder of blobs is a link": lambda h: (
        shutil.move(h.flow / "data", h.root.parent / "data"), (h.flow / "data").symlink_to(h.root.parent / "data")
    ),
    "a package of code is none": lambda h: h.add_fact(
        "start", "code-package", json.dumps({"sha": h.put(b"no archive", raw=True)})
    ) or h.add_fact("start", "script-name", "flow.py"),
    "a package of code has a long header": lambda h: headed(h, tarfile.XGLTYPE),
    "a package of code has many members": lambda h: headed(h, tarfile.DIRTYPE),
}  # fmt: skip


QUICK = (
    "a blob is another", "a name leads out of the folder", "a blob is a link", "a record is deep",
    "the record of an attempt is cut off",
)  # fmt: skip


@pytest.mark.quick(*QUICK)
@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_wrong_is_one_report_and_nothing_is_imported(history, store, name):
    """Whatever is wrong with one run, no other is imported either; the message names the file."""
    DAMAGE[name](history)
    began = time.process_time()
    failed = command("import-metaflow", history.root, "--store", store, expect=1)
    assert time.process_time() - began < 20
    assert failed.stderr.startswith("Error: ")
    assert "Nothing was imported" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "\x1b" not in failed.stderr
    assert "root:" not in failed.stderr
    assert sql(store, "select (select count(*) from runs) + (select count(*) from blobs)") == [0]
    check(store)


def test_a_folder_that_holds_no_runs_is_an_error(tmp_path, store):
    """And no store is created."""
    for path in (tmp_path, tmp_path / "missing"):
        failed = command("import-metaflow", path, "--store", store, expect=1)
        assert "Name the .metaflow folder" in failed.stderr
    assert not store.exists()


def test_the_folder_around_it_may_be_named(history, store, tmp_path):
    """As the current folder often is."""
    around = tmp_path / "project"
    around.mkdir()
    history.root.rename(around / ".metaflow")
    command("import-metaflow", around, "--store", store)
    assert sql(store, "select count(*) from runs") == [2]


def test_a_run_that_was_killed_is_dead(history, store, bring):
    """Its tasks that ended are there; what the last had printed is, too."""
    shutil.rmtree(history.run / "end")
    task = history.task("last")
    for path in [*task.glob("0.*"), *task.glob("_meta/0_*"), *task.glob("_meta/sysmeta_attempt[-_]*")]:
        if not path.name.endswith((".attempt.json", ".log")):
            path.unlink()
    run = bring()["1"]
    assert (run.status, run["last"].task.status) == ("dead", "dead")
    assert run["both"].task.data.juices == ["apple juice", "pear juice"]
    assert run["last"].task.data.juices == ["apple juice", "pear juice"]


def test_a_run_that_goes_on_is_skipped(history, store):
    """The command line of a task names its run, which is taken when it has ended."""
    shutil.rmtree(history.run / "end")
    process = subprocess.Popen(
        [sys.executable, "-c", "input()", "step", "--run-id", history.run.name], stdin=subprocess.PIPE
    )
    try:
        said = command("import-metaflow", history.root, "--store", store)
    finally:
        process.communicate(b"\n")
    assert f"Skipped OldFlow/{history.run.name}, which is still running" in said.stderr
    assert sql(store, "select count(*) from runs") == [1]
    command("import-metaflow", history.root, "--store", store)
    assert sorted(sql(store, "select status from runs")) == ["dead", "failed"]


def test_large_artifacts_are_streamed(history, store):
    """Bytes are stored as bytes, whatever their size, and other large pickles as they are; not in memory as a whole."""
    payload = os.urandom(1 << 20) * 24
    history.set("end", "large", pickle.dumps(payload, 4))
    history.set("end", "other", pickle.dumps({"a": payload}, 4))
    tracemalloc.start()
    command("import-metaflow", history.root, "--store", store)
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()
    assert sql(store, "select name, codec from artifact_values where name in ('large', 'other') order by 1") == [
        ("large", "bytes"), ("other", "pickle"),
    ]  # fmt: skip
    with use_store(store):
        flowstore.namespace(None)
        assert flowstore.Run("OldFlow/1").data.large == payload
    check(store)


def test_trust_can_be_given_later(history, store, bring):
    """Importing again with --trust signs the pickles of what is here already."""
    with pytest.raises(flowstore.UntrustedArtifact):
        _ = bring()["1"]["start"].task.data.obj
    said = command("import-metaflow", history.root, "--store", store, "--trust").stdout
    assert "2 of 2 were here already" in said
    with use_store(store):
        assert flowstore.Run("OldFlow/1")["start"].task.data.obj == {"a": 1}


def test_trust_is_given_to_what_is_in_the_folder(history, newest, store):
    """Not to the pickles that another folder has brought, in a run of the same id, user and time."""
    history.set("start", "obj", pickle.dumps(collections.OrderedDict(b=2)))
    command("import-metaflow", history.root, "--store", store)
    command("import-metaflow", newest, "--store", store, "--trust")
    flowstore.namespace(None)
    with use_store(store), pytest.raises(flowstore.UntrustedArtifact):
        _ = flowstore.Run("OldFlow/1")["start"].task.data.obj


def test_a_folder_cannot_take_the_place_of_another_one_s_run(history, newest, store):
    """A run with the same address, user and time but other values is another one: both come, and one note says so."""
    there = f"OldFlow/{history.run.name}"
    history.set("end", "juices", pickle.dumps("hostile"))
    command("import-metaflow", history.root, "--store", store)
    said = command("import-metaflow", newest, "--store", store)
    assert "Imported 1 run" in said.stdout
    assert f"{there} is the address in Metaflow of 2 runs with different values: OldFlow/1, OldFlow/3." in said.stderr
    assert "2 of 2 were here already" in command("import-metaflow", newest, "--store", store).stdout
    assert "Name one of these" in command("show", there, "--store", store, expect=1).stderr
    command("delete", "OldFlow/1", "--yes", "--store", store)
    with use_store(store):
        flowstore.namespace(None)
        assert flowstore.Run(there).data.juices == ["apple juice", "pear juice"]
    check(store)


def test_errors_and_times_have_limits(history, bring):
    """A message is cut at its end and a traceback at its beginning; no line of a log is from the future."""
    history.run = max(path for path in history.flow.iterdir() if path.name.isdigit())
    state = {"type": "builtins.ValueError", "exception": "m" * (1 << 20), "stacktrace": "t" * (1 << 20) + " the end"}
    wrapper = b"\x80\x02cmetaflow.exception\nMetaflowExceptionWrapper\n)\x81" + pickle.dumps(state, 2)[2:-1] + b"b."
    history.set("last", "_exception", wrapper)
    log = min(history.task("last").glob("*stdout.log"))
    log.write_bytes(b"[MFLOG|0|9000-01-01T00:00:00.000000Z|task|a]later\n")
    task = bring()["2"]["last"].task
    assert (len(task.exception.message), len(task.exception.traceback)) == (256 << 10, 256 << 10)
    assert task.exception.traceback.endswith("t the end")
    [(at, line)] = [*task.loglines("stdout")]
    assert (at.year < 9000, line) == (True, "later")


def test_cards_come_along(history, store, bring):
    """Each with its kind and id, as HTML that is only ever text."""
    task = history.task("end")
    path = history.root / "mf.cards/OldFlow/runs" / history.run.name / "steps/end/tasks" / task.name / "cards"
    path.mkdir(parents=True)
    (path / "default-0123abcd.html").write_text("<h1>one</h1>")
    (path / "blank-mine-4567cdef.html").write_text("<script>alert(1)</script>")
    info = {"card_uuid": "0123abcd", "type": "default", "id": None}
    history.add_fact("end", "0123abcd", json.dumps(info), "card-info")
    run = bring()["1"]
    cards = {(card.type, card.id): card.get() for card in get_cards(run["end"].task)}
    assert cards == {("default", None): "<h1>one</h1>", ("blank", "mine"): "<script>alert(1)</script>"}


def test_code_comes_along_without_metaflow_s_own(history, store, bring):
    """A package is unpacked in memory; what would be outside of it, or is no plain file, is left out."""
    package(
        history, ("flow.py", b"print(1)"), ("lib/a.py", b"x = 1"), (".mf_code/metaflow/cli.py", b""), ("INFO", b"{}"),
        ("metaflow/cli.py", b""), ("../evil.py", b""), ("/abs.py", b""),
    )  # fmt: skip
    code = bring()["1"].code
    assert (code.script_name, code.flowspec, sorted(code.files)) == ("flow.py", "print(1)", ["flow.py", "lib/a.py"])


def test_hostile_tags_and_times_harm_nobody(history, store):
    """A run is not from the future; a tag that only the system sets is not a user's, so the store can be exported."""
    record = history.run / "_meta/_self.json"
    edit(record, ts_epoch=4102444800000, tags=["user:somebody", "ok", "x" * 600, ""])
    command("import-metaflow", history.root, "--store", store)
    flowstore.namespace(None)
    with use_store(store):
        run = max(flowstore.Flow("OldFlow"), key=lambda run: run.created_at)
        assert run.created_at.year < 2100
        assert run.user_tags == {"ok"}
        assert "user:somebody" in run.system_tags
    command("import", store, "--store", store.with_name("other.db"))
    check(store)


def test_hostile_names_harm_nobody(history, bring):
    """Whatever is recorded as the name of a constant, and as the kind and id of a card."""
    history.set("start", "_graph_info", pickle.dumps({"constants": [{"name": []}]}))
    task = history.task("end")
    path = history.root / "mf.cards/OldFlow/runs" / history.run.name / "steps/end/tasks" / task.name / "cards"
    path.mkdir(parents=True)
    (path / "default-0123abcd.html").write_text("<h1>one</h1>")
    info = {"card_uuid": "0123abcd", "type": "\ud800", "id": "\ud800"}
    history.add_fact("end", "0123abcd", json.dumps(info), "card-info")
    [card] = get_cards(bring()["1"]["end"].task)
    assert (card.type, card.id, card.get()) == ("\\ud800", "\\ud800", "<h1>one</h1>")


def test_addresses_in_metaflow_survive_export_and_import(history, store, tmp_path, bring):
    """Whichever file the runs come in later."""
    flow = bring()
    there = f"OldFlow/{history.run.name}"
    assert flow[flowstore.Run(there).id].origin_pathspec == there
    command("export", tmp_path / "mailed.db", "--store", store)
    command("import", tmp_path / "mailed.db", "--store", tmp_path / "other.db")
    for path in (tmp_path / "mailed.db", tmp_path / "other.db"):
        with use_store(path):
            flowstore.namespace(None)
            assert flowstore.Run(there).origin_pathspec == there
            assert flowstore.Task(f"{there}/start/1").origin_pathspec == f"{there}/start/1"
        check(path)
