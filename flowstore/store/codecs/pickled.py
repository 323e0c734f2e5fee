"""The codec `pickle`: everything else, by cloudpickle. Its bytes are loaded only where the user trusts their author."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from flowstore.errors import ArtifactError
from flowstore.store.codecs.contract import Codec, File, Piece, Pieces

_LARGE_PIECE = 65536  # kept as it is; smaller ones are joined


class Pickled(Codec):
    """Whatever can be pickled, classes of the flow's file included (see `flowstore.store.pickling`)."""

    def encode(self, value: Any) -> Pieces:
        """Return the pickle.

        Raises:
            ArtifactError: the value can't be pickled.
        """
        from flowstore.store import pickling

        pieces: list[Piece] = []
        small = bytearray()

        def write(piece: Piece) -> int:
            nonlocal small
            if memoryview(piece).nbytes > _LARGE_PIECE:
                if small:
                    pieces.append(small)
                    small = bytearray()
                pieces.append(piece)
            else:
                small += piece
            return memoryview(piece).nbytes

        try:
            keep = pickling.dump(value, write)
        except ArtifactError:  # of an object of ours that says itself why it can't be stored
            raise
        except Exception as error:  # pickling calls the value's own methods, which may raise anything
            raise ArtifactError(f"it cannot be pickled: {type(error).__name__}: {error}") from error
        pieces.append(small)
        return Pieces(pieces, keep)

    def decode(self, pieces: Iterator[bytes], size_bytes: int) -> Any:  # noqa: ARG002
        """Return the value. This executes whatever the pickle says, so the caller has made sure that it is trusted."""
        from flowstore.store import pickling

        try:
            return pickling.load(io.BufferedReader(File(pieces), 1 << 20))
        except (ImportError, ArtifactError):
            raise
        except Exception as error:  # unpickling calls the value's own methods, which may raise anything
            raise ArtifactError(f"Its pickle cannot be loaded here: {type(error).__name__}: {error}") from error
