"""The least version of each deployment that this user still runs, in `$FLOWSTORE_HOME/deployed`.

A signature says that a version was deployed, not that it is still the latest. Whoever removes newer rows from a shared
store, or takes back that a flow was taken out of production, would bring an old version into force again. So each
deploying and deleting is noted here: for the place and identity of the store, so that a copy of it goes its own way.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from flowstore.context import home
from flowstore.errors import FlowstoreError
from flowstore.store import drafts, private
from flowstore.store.db import Store


def least_version(store: Store, flow: str, scope: str) -> int:
    """Return the first version of a flow in a scope that may run; 0 where this user noted none.

    Raises:
        FlowstoreError: the note can't be read.
    """
    path = _path(store, flow, scope)
    try:
        found = private.read(path, "note of what is deployed")
        return 0 if found is None else int(found)
    except (OSError, ValueError) as error:
        raise FlowstoreError(f"{path} can't be read: {error}. Remove it, and deploy again.") from error


def note(store: Store, flow: str, scope: str, version: int) -> None:
    """Record that no version before this one is to run any more.

    Raises:
        FlowstoreError: it can't be written.
    """
    path = _path(store, flow, scope)
    version = max(version, least_version(store, flow, scope))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        drafts.sweep(path)
        with drafts.draft(path, 0o600) as draft:
            draft.write_text(f"{version}\n", "ascii")
            drafts.put_in_place(draft, path, replace=True)
    except OSError as error:
        raise FlowstoreError(
            f"{path} can't be written: {error.strerror}. Set $FLOWSTORE_HOME to a folder of yours."
        ) from error


def _path(store: Store, flow: str, scope: str) -> Path:
    what = "\0".join((os.path.realpath(store.path), store.uuid, flow, scope))
    return home() / "deployed" / hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()[:32]
