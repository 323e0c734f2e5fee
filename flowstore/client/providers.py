"""Where results are looked for, in the words of Metaflow: its metadata providers, of which a store's file is one."""

from __future__ import annotations

from pathlib import Path

from flowstore.errors import FlowstoreError
from flowstore.store.opening import active_store, get_store, use_store

_KIND = "local"


def get_metadata() -> str:
    """Return where results are looked for, as `local@PATH` with the path of the store."""
    return f"{_KIND}@{get_store()}"


def default_metadata() -> str:
    """Return to the store that this process would use by itself, and return it as `get_metadata` does."""
    from flowstore import context

    store, context.state.store = context.state.store, None
    if store is not None:
        store.close()
    return get_metadata()


def metadata(ms: str) -> str:
    """Look for results in another store, and return it as `get_metadata` does.

    Args:
        ms: `local@PATH`, with the path of a store or of the folder that holds a `flowstore.db`.

    Raises:
        FlowstoreError: it names a service.
        StoreNotFound: there is no store.
    """
    kind, _, where = ms.partition("@")
    if kind != _KIND:
        raise FlowstoreError(f"flowstore has no metadata service, as {ms!r} asks for. Give local@PATH of a store.")
    if not where:
        return default_metadata()
    path = Path(where)
    use_store(path / "flowstore.db" if path.is_dir() else path)
    active_store()
    return get_metadata()
