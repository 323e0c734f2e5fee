"""A pickle is code: it is loaded only if this user's own runs wrote it, or the user said so."""

from __future__ import annotations

import ast
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

import flowstore
from flowstore.errors import FlowstoreError, StoreCorrupt, UntrustedArtifact
from flowstore.store import codecs, opening, trust
from support.flows import LINEAR, flow_source
from support.hostile import edited
from support.processes import together
from support.stores import make_store, task_with

PACKAGE = Path(flowstore.__file__).parent
SAFE = {"j": {"a": [1]}, "b": b"bytes", "n": np.arange(3)}


@pytest.fixture
def path(tmp_path):
    """A store of this user's with an artifact of each codec; the pickle is `p`."""
    store = opening.ensure_store(tmp_path / "mine.db")
    task_with(store, **SAFE, p=range(1, 9))
    store.close()
    return store.path


def data_of(path, **options):
    """The artifacts of the first run of a store."""
    flowstore.namespace(None)
    flowstore.use_store(path, **options)
    return flowstore.Run("F/1").data


def assert_safe_ones_load(data):
    assert (data.j, data.b, data.n.tolist()) == ({"a": [1]}, b"bytes", [0, 1, 2])


class Bomb:
    """Leaves a file when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


BOMB = pickle.dumps(Bomb())
BLOB = "blobs (sha, codec, size_bytes, type, preview, data)"


def test_own_pickles_load(path):
    """What this user's runs wrote comes back without asking."""
    assert data_of(path).p == range(1, 9)


def test_another_user_s_pickle_is_refused_with_type_preview_and_command(path, stranger):
    """The refusal says the type, the preview, and the command that trusts; everything else loads."""
    stranger()
    data = data_of(path)
    assert_safe_ones_load(data)
    with pytest.raises(UntrustedArtifact) as caught:
        _ = data.p
    message = str(caught.value)
    for part in ("F/1/end/1/p", "range", "range(1, 9)", f"flowstore trust {path}"):
        assert part in message
    assert isinstance(caught.value, PermissionError)


def test_the_command_can_be_pasted_into_a_shell(tmp_path):
    """A path with blanks and quotes is quoted."""
    assert trust.command(tmp_path / "a b'c.db") == f"""flowstore trust '{tmp_path}/a b'"'"'c.db'"""


def test_reading_a_stranger_s_file_makes_no_key(path, stranger, tmp_path):
    """Looking inside somebody's file leaves nothing in the user's home."""
    stranger()
    with pytest.raises(UntrustedArtifact):
        _ = data_of(path).p
    assert not (tmp_path / "stranger").exists()


def test_trust_for_this_process(path, stranger, tmp_path):
    """use_store(path, trust=True) loads, and is forgotten with the switch."""
    stranger()
    assert data_of(path, trust=True).p == range(1, 9)
    with pytest.raises(UntrustedArtifact):
        _ = data_of(path).p
    assert not (tmp_path / "stranger" / "trusted.json").exists()


def test_trust_for_a_block(path, stranger):
    """As a context manager, too; the store of before is as untrusted as it was."""
    stranger()
    data = data_of(path)
    with flowstore.use_store(path, trust=True):
        assert flowstore.Run("F/1").data.p == range(1, 9)
    with pytest.raises(UntrustedArtifact):
        _ = data.p


def test_trust_is_remembered_until_it_is_revoked(path, stranger):
    """trust() holds for later processes; revoke() ends it, and says whether there was any."""
    stranger()
    uuid = opening.open_store(path).uuid
    trust.trust(path, uuid)
    assert data_of(path).p == range(1, 9)
    assert trust.is_trusted(path, uuid)
    assert trust.revoke(path)
    assert not trust.revoke(path)
    with pytest.raises(UntrustedArtifact):
        _ = data_of(path).p


def test_trust_belongs_to_the_store_and_the_path(path, stranger, tmp_path):
    """Another store at a trusted path, and a trusted store elsewhere, are not trusted."""
    copied = shutil.copy(path, tmp_path / "copy.db")
    other = make_store(tmp_path / "other.db")
    stranger()
    trust.trust(path, opening.open_store(path).uuid)
    with pytest.raises(UntrustedArtifact):
        _ = data_of(copied).p
    assert not trust.is_trusted(path, opening.open_store(other).uuid)


def test_trust_follows_a_link(path, stranger, tmp_path):
    """A link to a trusted file is that file."""
    (tmp_path / "link.db").symlink_to(path)
    stranger()
    trust.trust(tmp_path / "link.db", opening.open_store(path).uuid)
    assert data_of(path).p == range(1, 9)
    assert data_of(tmp_path / "link.db").p == range(1, 9)


def test_own_pickles_load_from_a_copy(path, tmp_path):
    """A copy of the file under another name is the same store, so its codes still hold."""
    (tmp_path / "sent").mkdir()
    assert data_of(shutil.copy(path, tmp_path / "sent" / "copy.db")).p == range(1, 9)


CHANGES = {
    "bytes": ("update blobs set data = :data where codec = 'pickle'", StoreCorrupt),
    "bytes and hash": (
        "update blobs set data = :data, sha = sha(:data), size_bytes = length(:data) where codec = 'pickle'",
        UntrustedArtifact,
    ),
    "codec of bytes": (
        "update blobs set data = :data, sha = sha(:data), codec = 'pickle' where codec = 'bytes'",
        UntrustedArtifact,
    ),
    "code": ("update signatures set mac = substr(sha(:data), 1, 32)", UntrustedArtifact),
    "shorter code": (
        "update signatures set mac = substr(mac, 1, 8 * length(:data) / length(:data))",
        UntrustedArtifact,
    ),
    "no code": ("delete from signatures where :data <> ''", UntrustedArtifact),
    "another key": ("update signatures set key_id = substr(sha(:data), 1, 8)", UntrustedArtifact),
    "another store": ("update store set uuid = 'f' || substr(uuid, 2) || length(:data)", UntrustedArtifact),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_copy_that_came_back_changed_runs_no_code(path, what, tmp_path):
    """Whoever changes bytes, hash, codec or code of a pickle in this user's own file can't make it run."""
    sql, error = CHANGES[what]
    edited(path, sql, BOMB)
    data = data_of(path)
    name = "b" if what == "codec of bytes" else "p"
    with pytest.raises(error):
        getattr(data, name)
    assert not (tmp_path / "exploded").exists()
    if what in {"bytes", "code", "no code"}:
        assert_safe_ones_load(data)


def test_a_signed_code_is_no_code_for_another_content(path, tmp_path):
    """A code moved to another pickle doesn't verify."""
    edited(path, f"insert into {BLOB} values (sha(:data), 'pickle', length(:data), 'x', 'x', :data)", BOMB)
    edited(path, "insert into signatures select (select max(id) from blobs), key_id, mac from signatures")
    edited(path, "update artifacts set blob_id = (select max(id) from blobs) where name = 'p'")
    with pytest.raises(UntrustedArtifact):
        _ = data_of(path).p
    assert not (tmp_path / "exploded").exists()


def test_bytes_that_are_a_pickle_stay_bytes(tmp_path, stranger):
    """A bytes artifact with exactly the bytes of a pickle neither runs nor vouches for the pickle."""
    stored = codecs.encode(range(1, 9)).content
    store = opening.ensure_store(tmp_path / "mine.db")
    task_with(store, b=stored)
    store.close()
    edited(store.path, f"insert into {BLOB} select sha, 'pickle', size_bytes, type, preview, data from blobs")
    edited(store.path, "insert into artifacts select attempt_id, 'p', (select max(id) from blobs), 0 from artifacts")
    data = data_of(store.path)
    assert data.b == stored
    with pytest.raises(UntrustedArtifact):
        _ = data.p


def test_a_run_in_a_stranger_s_file_signs_only_what_it_makes(flow, monkeypatch, tmp_path):
    """Running in somebody's store makes one's own pickles loadable there, and none of theirs."""
    script = flow(flow_source(LINEAR, start="self.p = [os.environ['FLOWSTORE_USER'], range(1)]"))
    script("run", FLOWSTORE_USER="anne")
    script("run", FLOWSTORE_USER="will", FLOWSTORE_HOME=str(tmp_path / "will"))
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "will"))
    flowstore.namespace(None)
    assert script.client(2).data.p == ["will", range(1)]
    with pytest.raises(UntrustedArtifact):
        _ = script.client(1).data.p


def test_the_key_is_for_its_owner_alone(path, tmp_path):
    """The key file has mode 0600, whatever the umask, and no draft stays beside it."""
    home = tmp_path / "home"
    assert [item.name for item in home.iterdir()] == ["key"]
    assert (home / "key").stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex((home / "key").read_text())) == 32


def test_eight_processes_that_make_the_key_at_once_agree(tmp_path):
    """First runs at the same moment all sign with the one key that stays."""
    said = together("import sys\nfrom flowstore.store import trust", "print(trust.user_key().hex())")
    assert {key.strip() for key in said} == {(tmp_path / "home" / "key").read_text().strip()}
    assert [item.name for item in (tmp_path / "home").iterdir()] == ["key"]


def test_eight_processes_that_trust_at_once_are_all_remembered(tmp_path):
    """Trusting several files at the same moment forgets none."""
    setup = "import sys, os\nfrom pathlib import Path\nfrom flowstore.store import trust"
    together(setup, "for n in range(20): trust.trust(Path(f'{os.getpid()}-{n}.db'), 'uuid')")
    assert len(list((tmp_path / "home" / "trusted").iterdir())) == 160


@pytest.mark.parametrize("text", ["", "xyz", "00" * 31, "00" * 33])
def test_a_broken_key_is_one_clear_error(tmp_path, text):
    """A key file that holds no key is never replaced silently."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "key").write_text(text)
    with pytest.raises(FlowstoreError, match="64 hex digits"):
        trust.user_key()
    assert (tmp_path / "home" / "key").read_text() == text


@pytest.mark.parametrize("text", ["", "{", "somewhere\nelse\n"])
def test_a_broken_record_of_trust_trusts_nothing(path, stranger, tmp_path, text):
    """What a record of trust does not say word for word is not trusted."""
    stranger()
    uuid = opening.open_store(path).uuid
    trust.trust(path, uuid)
    [record] = (tmp_path / "stranger" / "trusted").iterdir()
    record.write_text(text)
    assert not trust.is_trusted(path, uuid)


LOADERS = {"load", "loads", "Unpickler", "_load", "_loads", "_Unpickler"}
MODULES = {"pickle", "cloudpickle", "_pickle", "dill", "joblib", "shelve", "marshal"}


def unpicklers(source):
    """The lines of a module that could unpickle."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            by_pickle = owner.split(".")[0] in MODULES and node.attr in LOADERS
            by_numpy = owner in {"np", "numpy"} and node.attr == "load"
            if by_pickle or by_numpy or node.attr in {"read_pickle", "find_class"}:
                yield node.lineno
        if isinstance(node, ast.ImportFrom) and node.module in MODULES | {"numpy"}:
            yield from (node.lineno for name in node.names if name.name in LOADERS | {"*"})
        if isinstance(node, ast.ImportFrom) and node.module == "flowstore.store.pickling":
            yield node.lineno
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield node.value.lineno


def test_one_module_unpickles():
    """Nothing in the package loads a pickle but store/pickling.py, and only the guarded codecs call that.

    `parallel_map` loads what a process that it has forked itself has just written.
    """
    found = {str(file.relative_to(PACKAGE)): list(unpicklers(file.read_text())) for file in PACKAGE.rglob("*.py")}
    assert sorted(name for name, lines in found.items() if lines) == [
        "flow/helpers.py",
        "run/local/messages.py",
        "store/pickling.py",
    ]
    assert "pickle" not in (PACKAGE / "run/local/messages.py").read_text().replace(
        "nothing is pickled", ""
    )  # but marshal
    callers = [file for file in PACKAGE.rglob("*.py") if "pickling.load(" in file.read_text()]
    assert [str(file.relative_to(PACKAGE)) for file in callers] == ["store/codecs/pickled.py"]


def test_the_search_for_unpicklers_finds_them():
    """The test above would see each way of unpickling."""
    for line in (
        "pickle.loads(x)", "cloudpickle.load(x)", "pickle.Unpickler(x)", "np.load(x)", "from pickle import loads",
        "numpy.load(x)", "pd.read_pickle(x)", "read_array(x, allow_pickle=True)", "cloudpickle.cloudpickle.loads(x)",
    ):  # fmt: skip
        assert list(unpicklers(line)), line
    assert not list(unpicklers("json.loads(x); pickle.dumps(x); io.load(x)"))
