"""The production tokens that this user holds, in `$FLOWSTORE_HOME/tokens.json`: by store, then by scope.

Whose file holds a token may deploy. The store has the tokens too, since the names of production namespaces show
them; a token guards against accidents, not against attackers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from flowstore.context import home
from flowstore.errors import FlowstoreError
from flowstore.sqlite import files
from flowstore.sqlite.database import Store
from flowstore.sqlite.files import locked
from flowstore.store import private


def find(store_uuid: str, scope: str) -> str | None:
    """The token that this user holds for a scope of a store, if any."""
    return read().get(store_uuid, {}).get(scope)


def read() -> dict[str, dict[str, str]]:
    """All tokens of this user.

    Raises:
        FlowstoreError: the file is there, but not as flowstore writes it.
    """
    return _read(_path())


def unfinished(store_uuid: str, scope: str) -> list[str]:
    """The tokens of a scope that were prepared by processes which have not kept them yet, or died before they could.

    Whether the transaction that makes such a token valid was committed, the store knows. To be asked before `find`,
    since a token is in one of the two places.
    """
    found: list[str] = []
    for draft in files.temporary_files_of(_path()):
        with contextlib.suppress(FlowstoreError):  # it was not even prepared to its end
            found += filter(None, [_read(draft).get(store_uuid, {}).get(scope)])
    return found


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        content = private.read(path, "tokens")
        if content is None:
            return {}
        found = json.loads(content.decode("utf-8"))
    except OSError as error:
        raise FlowstoreError(f"Your tokens {path} can't be read: {error.strerror}. Nothing was changed.") from error
    except ValueError as error:
        raise FlowstoreError(f"Your tokens {path} can't be read: {error}. {_MEND}") from error
    except FlowstoreError as error:  # others may have written it
        raise FlowstoreError(f"{error} Nothing was changed.") from None
    sound = isinstance(found, dict) and all(
        isinstance(scopes, dict) and all(isinstance(token, str) for token in scopes.values())
        for scopes in found.values()
    )
    if not sound:
        raise FlowstoreError(f"Your tokens {path} can't be read: it does not hold tokens by store and scope. {_MEND}")
    return {store: dict(scopes) for store, scopes in found.items()}


_MEND = "Nothing was changed. Mend or remove it; then deploying to what is there already needs --authorize TOKEN."


class Keeper:
    """Takes a token into the file in two steps, around the commit of the transaction that makes it valid."""

    def __init__(self) -> None:
        self._draft: Path | None = None
        self._making = contextlib.ExitStack()

    def prepare(self, store_uuid: str, scope: str, token: str) -> None:
        """Write the new file beside the old one, readable for this user only; nothing where the token is held.

        Raises:
            FlowstoreError: it can't be written.
        """
        _drop_unfinished((store_uuid, scope))
        if find(store_uuid, scope) == token:
            return
        path = _path()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self._making.enter_context(files.temporary_file(path, 0o600))
            self._making.enter_context(locked(path.with_name("tokens.lock")))  # until the new file is there, or dropped
            tokens = read()
            tokens.setdefault(store_uuid, {})[scope] = token
            draft.write_text(json.dumps(tokens, indent=2, sort_keys=True) + "\n", "utf-8")
        except (OSError, sqlite3.Error) as error:
            raise FlowstoreError(
                f"Your tokens {path} can't be written: {getattr(error, 'strerror', error)}. Nothing was changed. "
                "Set $FLOWSTORE_HOME to a folder of yours."
            ) from error
        self._draft = draft

    def finish(self) -> None:
        """Put what was prepared in the old file's place, at once."""
        if self._draft is not None:
            files.move_to(self._draft, _path(), replace=True)

    def drop(self) -> None:
        """Forget what was prepared."""
        self._making.close()


@contextlib.contextmanager
def keeping() -> Iterator[Keeper]:
    """Keep the token that the block prepares, if the block ends well; the transaction stands inside it."""
    keeper = Keeper()
    try:
        yield keeper
        keeper.finish()
    finally:
        keeper.drop()


def _drop_unfinished(settled: tuple[str, str]) -> None:
    """Remove what dead processes had prepared, but for tokens that may be valid and are nowhere else."""
    tokens = read()
    for draft in files.temporary_files_of(_path(), abandoned=True):
        with contextlib.suppress(FlowstoreError, OSError):
            prepared = _read(draft)
            each = ((store, scope) for store, scopes in prepared.items() for scope in scopes)
            if all(key == settled or tokens.get(key[0], {}).get(key[1]) == prepared[key[0]][key[1]] for key in each):
                draft.unlink()


def _path() -> Path:
    return home() / "tokens.json"


def least_version(store: Store, flow: str, scope: str) -> int:
    """Return the first version of a flow in a scope that may run; 0 where this user noted none.

    Raises:
        FlowstoreError: the note can't be read.
    """
    path = _version_path(store, flow, scope)
    try:
        found = private.read(path, "note of what is deployed")
        return 0 if found is None else int(found)
    except (OSError, ValueError) as error:
        raise FlowstoreError(f"{path} can't be read: {error}. Remove it, and deploy again.") from error


def note_version(store: Store, flow: str, scope: str, version: int) -> None:
    """Record that no version before this one is to run any more.

    Raises:
        FlowstoreError: it can't be written.
    """
    path = _version_path(store, flow, scope)
    version = max(version, least_version(store, flow, scope))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.remove_abandoned(path)
        with files.temporary_file(path, 0o600) as draft:
            draft.write_text(f"{version}\n", "ascii")
            files.move_to(draft, path, replace=True)
    except OSError as error:
        raise FlowstoreError(
            f"{path} can't be written: {error.strerror}. Set $FLOWSTORE_HOME to a folder of yours."
        ) from error


def _version_path(store: Store, flow: str, scope: str) -> Path:
    what = "\0".join((os.path.realpath(store.path), store.uuid, flow, scope))
    return home() / "deployed" / hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()[:32]
