"""The production tokens that this user holds, a file each, and the least version of each deployment that may run.

Whoever holds a token may deploy. The store has the tokens too, since the names of production namespaces show them; a
token guards against accidents, not against attackers.

A file is written just before the commit of the transaction that makes its token valid, so that no valid token is lost,
whenever the process dies. If the transaction fails, the file stays and matches nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from flowstore.context import home
from flowstore.errors import FlowstoreError
from flowstore.sqlite import files
from flowstore.sqlite.database import Database
from flowstore.store import private

_REPAIR = "Nothing was changed. Repair or remove it; then deploying to what is there already needs --authorize TOKEN."


def held(store_uuid: str, scope: str) -> list[str]:
    """Return the tokens that this user holds for a scope of a store, valid or not.

    Raises:
        FlowstoreError: a file of tokens is there, but not as flowstore writes it.
    """
    old = _read(_old_path()) or {}
    tokens = [old[store_uuid][scope]] if scope in old.get(store_uuid, {}) else []
    for path in sorted(_folder().glob(f"{_hash(store_uuid, scope)}-*.json")):
        tokens += (_read(path) or {}).get(store_uuid, {}).values()
    return tokens


def keep(store_uuid: str, scope: str, token: str) -> None:
    """Write a token to a file of its own, readable for this user only; does nothing where the token is held.

    Raises:
        FlowstoreError: it can't be written.
    """
    path = _folder() / f"{_hash(store_uuid, scope)}-{_hash(token)}.json"
    files.remove_abandoned(path, siblings=True)
    if token in held(store_uuid, scope):
        return
    try:
        _write(path, json.dumps({store_uuid: {scope: token}}, indent=2) + "\n")
    except FlowstoreError as error:
        raise FlowstoreError(f"{error} Nothing was changed.") from error


def _read(path: Path) -> dict[str, dict[str, str]] | None:
    """Return tokens by store and scope, or `None` where there is no file."""
    try:
        data = private.read(path, "tokens")
        tokens = None if data is None else json.loads(data.decode("utf-8"))
    except OSError as error:
        raise FlowstoreError(f"Your tokens {path} cannot be read: {error.strerror}. Nothing was changed.") from error
    except ValueError as error:
        raise FlowstoreError(f"Your tokens {path} cannot be read: {error}. {_REPAIR}") from error
    except FlowstoreError as error:  # others may have written it
        raise FlowstoreError(f"{error} Nothing was changed.") from None
    if tokens is not None and not _holds_tokens(tokens):
        raise FlowstoreError(
            f"Your tokens {path} cannot be read: it does not hold tokens by store and scope. {_REPAIR}"
        )
    return tokens


def _holds_tokens(tokens: Any) -> bool:
    return isinstance(tokens, dict) and all(
        isinstance(scopes, dict) and all(isinstance(token, str) for token in scopes.values())
        for scopes in tokens.values()
    )


def _write(path: Path, text: str) -> None:
    """Replace a file of this user's own by one that holds `text`.

    Raises:
        FlowstoreError: it can't be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with files.temporary_file(path, 0o600) as temporary:
            temporary.write_text(text, "utf-8")
            files.move_to(temporary, path, replace=True)
    except OSError as error:
        raise FlowstoreError(
            f"{path} cannot be written: {error.strerror}. Set $FLOWSTORE_HOME to a folder of yours."
        ) from error


def _folder() -> Path:
    return home() / "tokens"


def _old_path() -> Path:
    """Return the file in which flowstore 0.1.0 kept all tokens; it is read for ever, and no longer written."""
    return home() / "tokens.json"


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


# --- versions


def least_version(store: Database, flow: str, scope: str) -> int:
    """Return the first version of a flow in a scope that may run; 0 where this user noted none.

    Raises:
        FlowstoreError: the note can't be read.
    """
    path = _version_path(store, flow, scope)
    try:
        noted = private.read(path, "note of what is deployed")
        return 0 if noted is None else int(noted)
    except (OSError, ValueError) as error:
        raise FlowstoreError(f"{path} cannot be read: {error}. Remove it, and deploy again.") from error


def note_version(store: Database, flow: str, scope: str, version: int) -> None:
    """Record that no version before this one is to run any more.

    Raises:
        FlowstoreError: it can't be written.
    """
    path = _version_path(store, flow, scope)
    files.remove_abandoned(path, siblings=True)
    _write(path, f"{max(version, least_version(store, flow, scope))}\n")


def _version_path(store: Database, flow: str, scope: str) -> Path:
    return home() / "deployed" / _hash(os.path.realpath(store.path), store.uuid, flow, scope)
