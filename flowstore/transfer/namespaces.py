"""Tags of a stranger's runs that would put them into a namespace of this user or this store.

The newest run of a namespace is what `latest_run` returns and what a deployment reads, so nobody else's file may decide
that it is one of its own. Such a tag is kept, with the store that it comes from: `user:me@1a2b3c4d`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sqlite3

from flowstore import context
from flowstore.errors import FlowstoreError
from flowstore.store import tags


def is_ours(db: sqlite3.Connection, tag: str) -> bool:
    """Return whether a tag names this user's namespace or a production namespace of this store, present or past."""
    kind, _, name = tag.partition(":")
    if kind == "user":
        with contextlib.suppress(FlowstoreError):  # an account without a name has no namespace
            return name == context.username()
    if kind != "production":
        return False
    if db.execute("select 1 from production_tokens where token = ?", (name,)).fetchone():
        return True
    return bool(
        db.execute(
            """select 1 from run_tags t join tags g on g.id = t.tag_id where g.tag = ?
               and not exists (select 1 from origins o where o.run_id = t.run_id) limit 1""",
            (tag,),
        ).fetchone()
    )


def kept_apart(tag: str, store_uuid: str) -> str:
    """Return the tag together with the store that it comes from.

    Example:
        >>> kept_apart("user:me", "1a2b3c4d" * 4)
        'user:me@1a2b3c4d'
    """
    proper = re.fullmatch("[0-9a-f]{32}", store_uuid)
    store = store_uuid[:8] if proper else hashlib.sha256(store_uuid.encode()).hexdigest()[:8]
    return f"{tag[: tags.MAX_LENGTH - 9]}@{store}"
