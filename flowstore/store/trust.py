"""Trust: a pickle is loaded if this user's runs wrote it on this machine, or if the user trusts its file.

A pickle is code. Each one that a run writes is signed with the user's key, which never leaves
`$FLOWSTORE_HOME`: HMAC-SHA256 over the store's identity, the blob's hash and the codec. A file that
somebody mails has no such signature, so its pickles are not loaded until the user trusts the file.

Blobs are shared between runs, but a pickle that came with an imported run stays untrusted as part of that run, even if
one of the user's own runs wrote the same bytes: a row of `unverified` says so, and is copied when the run is resumed.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from flowstore.context import home
from flowstore.errors import FlowstoreError
from flowstore.sqlite import files
from flowstore.sqlite.database import Database
from flowstore.store import private, schema, tables

_keys: dict[Path, bytes] = {}
_DEPLOYMENT = "deployment"  # no codec has this name, so that no artifact's signature can pass for a deployment's
_OWNER = "owner"  # nor this one
_UNVERIFIED_SINCE = 5  # the schema version


def user_key() -> bytes:
    """This user's secret key, made at first use.

    Raises:
        FlowstoreError: it can't be read or made.
    """
    path = home() / "key"
    if path not in _keys:
        try:
            _keys[path] = _read_key(path) or _make_key(path)
        except OSError as error:
            raise FlowstoreError(
                f"Your key {path} cannot be read or made: {error.strerror}. Set $FLOWSTORE_HOME to a folder of yours."
            ) from error
    return _keys[path]


def _read_key(path: Path) -> bytes | None:
    digits = private.read(path, "key", secret=True)
    if digits is None:
        return None
    try:
        key = bytes.fromhex(digits.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise FlowstoreError(f"{path} does not hold a key of 64 hex digits. Restore it, or remove it to get a new one.")
    return key


def _make_key(path: Path) -> bytes:
    """Write the key under another name first, so that two first runs at once agree on one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    private.check_folder(path.parent)
    files.remove_abandoned(path)
    key = os.urandom(32)  # as `secrets`, whose import takes 2 ms, has it
    with files.temporary_file(path, 0o600) as temporary:
        temporary.write_text(key.hex() + "\n", "ascii")
        try:
            files.move_to(temporary, path, replace=False)
        except FileExistsError:
            return _read_key(path) or key
    return key


def key_id(key: bytes) -> bytes:
    """Return what a signature says of the key that made it, without giving the key away."""
    import hashlib  # OpenSSL, which most commands do without

    return hashlib.sha256(b"flowstore key id" + key).digest()[:8]


def _mac(key: bytes, store_uuid: str, sha: bytes, codec: str) -> bytes:
    import hmac  # with OpenSSL, which most commands do without

    return hmac.digest(key, b"\0".join((store_uuid.encode(), sha, codec.encode())), "sha256")


def _is_same(mac: bytes, other: bytes) -> bool:
    """Return whether two signatures are equal, in a time that says nothing of where they differ."""
    import hmac

    return hmac.compare_digest(mac, other)


def sign(db: sqlite3.Connection, store_uuid: str, blob_id: int, sha: bytes, codec: str) -> None:
    """Record that this user's run wrote a blob, if it is a pickle: only loading pickles executes code."""
    if codec != "pickle":
        return
    key = user_key()
    db.execute(
        "insert or replace into signatures values (?, ?, ?)", (blob_id, key_id(key), _mac(key, store_uuid, sha, codec))
    )


def may_load(store: Database, run_id: int | None, blob_id: int, sha: bytes, codec: str) -> bool:
    """Return whether a blob's code may run in this process, as part of a run or, for `None`, of none."""
    if store.trusted or (_place(store.path).exists() and is_trusted(store.path, store.uuid)):
        return True
    if not (home() / "key").exists():
        return False
    key = user_key()
    row = store.row(
        f"""select (select mac from signatures where blob_id = :blob_id and key_id = :key_id) as mac,
                   (select uuid from store) as uuid, {_unverified(store)} as is_flag""",
        {"blob_id": blob_id, "key_id": key_id(key), "run_id": run_id},
    )
    if row is None or row["mac"] is None or row["is_flag"]:
        return False
    return _is_same(bytes(row["mac"]), _mac(key, row["uuid"], sha, codec))


def signed_by_user(store: Database, blob_ids: Iterable[int]) -> set[int]:
    """Return those of these blobs that this user's key vouches for."""
    if not (home() / "key").exists():
        return set()
    key = user_key()
    rows = store.rows(
        """select s.blob_id, s.mac, b.sha, b.codec from signatures s join blobs b on b.id = s.blob_id
           where s.blob_id in (select value from json_each(?)) and s.key_id = ?""",
        (json.dumps([*blob_ids]), key_id(key)),
    )
    return {
        row["blob_id"]
        for row in rows
        if row["sha"] is not None and _is_same(bytes(row["mac"]), _mac(key, store.uuid, row["sha"], row["codec"]))
    }


def _unverified(store: Database) -> str:
    """Return the SQL of whether a blob came with an imported run, without this user's signature."""
    if store.version < _UNVERIFIED_SINCE:  # an older store is read as it is
        return "0"
    return "exists (select 1 from unverified where run_id = :run_id and blob_id = :blob_id)"


def mark_unverified(db: sqlite3.Connection, run_id: int, blob_ids: Iterable[int]) -> None:
    """Record that blobs came with a run, and that this user vouches for none of them."""
    schema.ensure_table(db, "unverified")
    db.executemany("insert or ignore into unverified values (?, ?)", [(run_id, blob_id) for blob_id in blob_ids])


def inherit_unverified(db: sqlite3.Connection, run_id: int, origin_id: int, blob_ids: Iterable[int]) -> None:
    """Record which blobs that a resumed run takes over from its origin are unverified there."""
    if not tables.is_empty(db, "unverified"):
        db.executemany(
            "insert or ignore into unverified select ?, blob_id from unverified where run_id = ? and blob_id = ?",
            [(run_id, origin_id, blob_id) for blob_id in blob_ids],
        )


def clear_unverified(db: sqlite3.Connection, run_id: int, blob_id: int) -> None:
    """Record that a task of the run has itself made what the run had also taken over."""
    if not tables.is_empty(db, "unverified"):
        db.execute("delete from unverified where run_id = ? and blob_id = ?", (run_id, blob_id))


def sign_deployment(store_uuid: str, digest: bytes) -> tuple[bytes, bytes]:
    """Sign what `deployments.digest` returned; return which key did, and the signature."""
    key = user_key()
    return key_id(key), _mac(key, store_uuid, digest, _DEPLOYMENT)


def is_key_of(signed_by: bytes) -> bool:
    """Return whether a signature claims to be this user's."""
    return (home() / "key").exists() and signed_by == key_id(user_key())


def signed_deployment(store: Database, digest: bytes, signed_by: bytes, mac: bytes) -> bool:
    """Return whether this user signed a deployment of this digest."""
    return is_key_of(signed_by) and _is_same(mac, _mac(user_key(), store.uuid, digest, _DEPLOYMENT))


def is_trusted(path: Path, store_uuid: str) -> bool:
    """Return whether the user trusts the store at `path`, which must still be the same store."""
    record = _place(path)
    try:
        return private.read(record, "record of trust") == _entry(path, store_uuid)
    except OSError as error:
        raise FlowstoreError(f"{record} cannot be read: {error}. Removing it trusts {path} no longer.") from error


def trust(path: Path, store_uuid: str) -> None:
    """Remember that the pickles of the store at `path` may be loaded."""
    record = _place(path)
    try:
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.remove_abandoned(record, siblings=True)
        with files.temporary_file(record, 0o600) as temporary:
            temporary.write_bytes(_entry(path, store_uuid))
            files.move_to(temporary, record, replace=True)
    except OSError as error:
        raise FlowstoreError(
            f"{record} cannot be written: {error.strerror}. Set $FLOWSTORE_HOME to a folder of yours."
        ) from error


def revoke(path: Path) -> bool:
    """Trust the store at `path` no longer; return whether it was trusted."""
    try:
        _place(path).unlink()
    except FileNotFoundError:
        return False
    return True


def _place(path: Path) -> Path:
    """Return the file that records trust in a store: one for each, so that two processes don't undo each other."""
    import hashlib  # OpenSSL, which most commands do without

    return home() / "trusted" / hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _entry(path: Path, store_uuid: str) -> bytes:
    """Return what that file holds: the store's path, which need not be text, and its identity."""
    return os.fsencode(f"{path.resolve()}\n{store_uuid}\n")


def command(path: Path) -> str:
    """Return the command line that trusts the store at `path`."""
    import shlex

    return f"flowstore trust {shlex.quote(str(path))}"


def claim(db: sqlite3.Connection, store_uuid: str) -> None:
    """Record, in the caller's transaction, that this user runs flows on this store."""
    key = user_key()
    db.execute("insert or ignore into owners values (?, ?)", (key_id(key), _mac(key, store_uuid, b"", _OWNER)))


def is_foreign(store: Database) -> bool:
    """Return whether a store is untrusted: no run of this user's is in it, and they have not trusted it."""
    if store.trusted or is_trusted(store.path, store.uuid):
        return False
    if not (home() / "key").exists():
        return True
    key = user_key()
    if store.value("select 1 from sqlite_master where name = 'owners'"):
        row = store.row("select mac from owners where key_id = ?", (key_id(key),))
        if row is not None and _is_same(bytes(row["mac"]), _mac(key, store.uuid, b"", _OWNER)):
            return False
    signed = store.row("select max(blob_id) as blob_id from signatures where key_id = ?", (key_id(key),))
    return signed is None or signed["blob_id"] is None or not signed_by_user(store, [signed["blob_id"]])
