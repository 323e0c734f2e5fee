"""The source that a run ran."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, overload

from flowstore.errors import FlowstoreError, StoreCorrupt
from flowstore.store import blobs, queries
from flowstore.store.db import Store
from flowstore.text import counted

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory


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

    @overload
    def extract(self) -> TemporaryDirectory[str]: ...
    @overload
    def extract(self, folder: str | Path) -> Path: ...

    def extract(self, folder: str | Path | None = None) -> Path | TemporaryDirectory[str]:
        """Write the files below `folder`, which is made if it is missing; gives it.

        Without one, they are in a temporary folder, which goes with the object that is given.

        Raises:
            StoreCorrupt: a path points outside of the folder, which no run of flowstore wrote.
            FlowstoreError: a file can't be written.
        """
        if folder is None:
            from tempfile import TemporaryDirectory

            temporary = TemporaryDirectory(prefix="flowstore-code-")
            self.extract(temporary.name)
            return temporary
        target = Path(folder).resolve()
        places = {path: self._place(target, path) for path in self._files}
        for path, place in places.items():
            content = self._read(path)
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            except OSError as error:
                raise FlowstoreError(f"{place} can't be written: {error.strerror}. Choose another folder.") from error
        return target

    def _place(self, target: Path, path: str) -> Path:
        try:
            place = (target / path).resolve()
        except (ValueError, OSError, RuntimeError):  # a null character, a name that is too long, a circle of links
            place = target
        if place == target or not place.is_relative_to(target):
            raise StoreCorrupt(f"{self._store.path}: the code holds the path {path!r}, which points outside.")
        return place

    def _read(self, path: str) -> bytes:
        if path not in self._files:
            raise StoreCorrupt(f"{self._store.path} is damaged: the code lacks its file {path!r}. Restore a copy.")
        value = blobs.load(self._store, self._files[path], path)
        if not isinstance(value, bytes):
            raise StoreCorrupt(f"{self._store.path}: the file {path!r} of the code is no file. Restore a copy.")
        return value

    def __repr__(self) -> str:
        return f"Code({self.script_name!r}, {counted(len(self._files), 'file')})"
