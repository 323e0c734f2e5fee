"""The source that a run ran."""

from __future__ import annotations

from pathlib import Path

from flowstore.errors import StoreCorrupt
from flowstore.store import blobs, queries
from flowstore.store.db import Store


class Code:
    """The source that a run ran: the flow's file, and the modules beside it that it imported.

    Attributes:
        script_name: the name of the flow's file.
    """

    def __init__(self, store: Store, code_id: int) -> None:
        self._store = store
        self._files = queries.code_files(store, code_id)
        self.script_name = queries.script_name(store, code_id)

    @property
    def flowspec(self) -> str:
        """The text of the flow's file."""
        return self._read(self.script_name).decode("utf-8", "replace")

    @property
    def files(self) -> list[str]:
        """The paths of all files, relative to the flow's folder."""
        return list(self._files)

    def extract(self, folder: str | Path) -> Path:
        """Write the files below `folder`, which is made if it is missing; gives it.

        Raises:
            StoreCorrupt: a path points outside of the folder, which no run of flowstore wrote.
        """
        target = Path(folder).resolve()
        places = {path: (target / path).resolve() for path in self._files}
        for path, place in places.items():
            if not place.is_relative_to(target) or place == target:
                raise StoreCorrupt(f"{self._store.path}: the code holds the path {path!r}, which points outside.")
        for path, place in places.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(self._read(path))
        return target

    def _read(self, path: str) -> bytes:
        value: bytes = blobs.load(self._store, self._files[path], path)
        return value

    def __repr__(self) -> str:
        return f"Code({self.script_name!r}, {len(self._files)} files)"
