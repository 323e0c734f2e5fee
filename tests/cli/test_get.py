"""`get` writes an artifact in the form that the file's name asks for."""

from __future__ import annotations

import hashlib
import json
import re
import tracemalloc
from pathlib import Path

import pytest

from flowstore import ArtifactError, DataArtifact, UntrustedArtifact, namespace, use_store
from flowstore.cli import formats
from flowstore.store import opening
from support.looks import TASK
from support.processes import python, told
from support.stores import task_with


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("xs", "x.json", b"[1,2,3]"),
        ("text", "x.txt", "größe\n".encode()),
        ("text", "x", "größe\n".encode()),
        ("raw", "x.bin", b"\x00\x1b[2J"),
        ("raw", "x.txt", b"\x00\x1b[2J"),
        ("words", "x.csv", b"a\nb\n"),
        ("rows", "x.csv", b"a,b,c\n1,x,\n2,,'=y\n"),
        ("array", "x.csv", b"0,1,2\n3,4,5\n"),
        ("frame", "x.csv", b"n,t\n1,x\n2,y\n"),
        ("array", "x.json", b"[\n  [\n    0,\n    1,\n    2\n  ],\n  [\n    3,\n    4,\n    5\n  ]\n]"),
    ],
)
def test_an_artifact_is_written_in_the_form_that_the_name_asks_for(look, tmp_path, name, file, content):
    """Text, bytes, JSON and CSV as they are."""
    formats.write(DataArtifact(f"{TASK}/{name}"), tmp_path / file)
    assert (tmp_path / file).read_bytes() == content


def test_arrays_and_frames_are_written_as_files_of_their_own(look, tmp_path):
    """.npy and .parquet, from what is stored so, and from lists."""
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    for name, shape in (("array", (2, 3)), ("xs", (3,))):
        formats.write(DataArtifact(f"{TASK}/{name}"), tmp_path / "x.npy")
        assert numpy.load(tmp_path / "x.npy").shape == shape
    for name in ("frame", "rows"):
        formats.write(DataArtifact(f"{TASK}/{name}"), tmp_path / "x.parquet")
        assert len(pandas.read_parquet(tmp_path / "x.parquet")) == 2
    formats.write(DataArtifact(f"{TASK}/frame"), tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == [{"n": 1, "t": "x"}, {"n": 2, "t": "y"}]


@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        ("xs", "x.txt", "cannot be written as .txt"),
        ("text", "x.csv", "it is no table"),
        ("raw", "x.json", "has no form in JSON"),
        ("xs", "x.pkl", "safer form"),
        ("xs", "none/x.json", "No such file or directory"),
    ],
)
def test_what_has_no_such_form_is_one_message(look, tmp_path, name, file, words):
    """It names the artifact's type, and leaves no file behind."""
    with pytest.raises(ArtifactError, match=re.escape(words)):
        formats.write(DataArtifact(f"{TASK}/{name}"), tmp_path / file)
    assert [path.name for path in tmp_path.glob("*x*")] == []


@pytest.mark.parametrize("file", ["x.json", "x.csv", "x.npy", "x.parquet", "x.txt", "x"])
def test_a_form_that_needs_the_value_of_a_stranger_s_pickle_is_refused(story, tmp_path, monkeypatch, file):
    """As reading it is, with the command that trusts; the bytes themselves can be had, and no file is left."""
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "stranger"))
    use_store(story.db)
    namespace(None)
    with pytest.raises(UntrustedArtifact, match="flowstore trust"):
        formats.write(DataArtifact(f"{TASK}/f"), tmp_path / file)
    assert list(tmp_path.glob("*x*")) == []
    formats.write(DataArtifact(f"{TASK}/f"), tmp_path / "x.pkl")
    assert (tmp_path / "x.pkl").stat().st_size > 100


def test_large_bytes_are_never_held_whole(tmp_path):
    """64 MB are written in pieces."""
    store = opening.ensure_store(tmp_path / "flowstore.db")
    task_with(store, big=b"0123456789abcdef" * (4 << 20))
    store.close()
    use_store(store.path)
    namespace(None)
    artifact = DataArtifact("F/1/end/1/big")
    tracemalloc.start()
    formats.write(artifact, tmp_path / "big.bin")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "big.bin").stat().st_size == 64 << 20
    assert peak < 8 << 20


def test_a_device_is_written_to_and_not_replaced(look):
    """What is no file stays what it is."""
    formats.write(DataArtifact(f"{TASK}/raw"), Path("/dev/null"))
    assert not Path("/dev/null").is_file()


def test_get_prints_what_can_be_printed(story):
    """JSON as JSON, bytes as they are, anything else as its preview; `--json` says what it is as well."""
    assert json.loads(story.flowstore("get", f"{TASK}/rows").stdout)[1]["c"] == "=y"
    assert story.flowstore("get", f"{TASK}/raw").stdout == "\x00\x1b[2J"
    assert "function" in story.flowstore("get", f"{TASK}/f").stdout
    [row] = story.rows("get", f"{TASK}/xs")
    assert (row["value"], row["sha"]) == ([1, 2, 3], hashlib.sha256(b"[1,2,3]").hexdigest())
    assert story.rows("get", f"{TASK}/f")[0]["value"] is None


def test_without_the_data_packages_all_else_works(story, tmp_path):
    """Without pandas, numpy and pyarrow: tables, JSON, bytes and stored forms; what needs them says how to get them."""
    code = (
        "import sys\n"
        "for name in ('pandas', 'numpy', 'pyarrow'): sys.modules[name] = None\n"
        "from click.testing import CliRunner\n"
        "from flowstore.cli.main import flowstore\n"
        "from flowstore import FlowstoreError\n"
        "def call(*args):\n"
        "    ran = CliRunner().invoke(flowstore, args)\n"
        "    if isinstance(ran.exception, FlowstoreError): return str(ran.exception)\n"
        "    assert ran.exit_code == 0, ran.exception\n"
        f"task = {TASK!r}\n"
        "for words in ('runs', 'show F/1', f'show {task}', 'tags', 'logs F/1', 'diff F/1 F/2', f'get {task}/frame'):\n"
        "    assert call(*words.split()) is None, words\n"
        "for name, file in (('rows', 'x.csv'), ('array', 'x.npy'), ('frame', 'x.parquet'), ('raw', 'x.bin')):\n"
        "    assert call('get', f'{task}/{name}', '-o', sys.argv[1] + '/' + file) is None, name\n"
        "for name, file in (('frame', 'x.csv'), ('array', 'x.csv'), ('xs', 'y.npy'), ('rows', 'y.parquet')):\n"
        "    message = call('get', f'{task}/{name}', '-o', sys.argv[1] + '/' + file)\n"
        "    assert 'pip install \"flowstore[data]\"' in message, (name, file, message)\n"
    )
    told(python(code, tmp_path, folder=story.folder))
    assert (tmp_path / "x.csv").read_text() == "a,b,c\n1,x,\n2,,'=y\n"
