"""What driver and tasks say to each other: JSON messages, and chunks of large artifacts, over a socket.

Nothing here is pickled, so that the driver never runs code that a task sent. A frame is a kind byte
(`J` message, `D` data), a length in 8 bytes, and that many bytes. Small contents travel in the message
itself: JSON text as it is, other bytes as base64.
"""

from __future__ import annotations

import base64
import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

from flowstore.store.codecs import Encoded, Piece

_HEADER = struct.Struct("!cQ")
MESSAGE, DATA = b"J", b"D"
_LIMIT = 1 << 32


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    """Send one message."""
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    channel.sendall(_HEADER.pack(MESSAGE, len(body)) + body)


def send_data(channel: socket.socket, pieces: Iterator[Piece]) -> None:
    """Send chunks of data."""
    for piece in pieces:
        channel.sendall(_HEADER.pack(DATA, memoryview(piece).nbytes))
        channel.sendall(piece)


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """Wait for one message; `None` when the other side is gone."""
    header = _exactly(channel, _HEADER.size)
    if header is None:
        return None
    body = _exactly(channel, _HEADER.unpack(header)[1])
    return None if body is None else decode_message(body)


def decode_message(body: bytes | bytearray | memoryview) -> dict[str, Any]:
    """A message from its bytes."""
    message: dict[str, Any] = json.loads(bytes(body).decode("utf-8", "surrogatepass"))
    return message


def _exactly(channel: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        part = channel.recv(min(count - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


class Reader:
    """Frames out of a socket that is read whenever something has arrived."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, received: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Take what was received; gives the kind and body of each frame that is now whole."""
        self._buffer += received
        while len(self._buffer) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._buffer)
            if kind not in (MESSAGE, DATA) or length > _LIMIT:
                raise ValueError("a task sent something that is not of flowstore's form")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            body = bytes(memoryview(self._buffer)[_HEADER.size : end])
            del self._buffer[:end]
            yield kind, body


def content_to_json(encoded: Encoded) -> dict[str, Any]:
    """A small content, to travel in a message."""
    data = encoded.content
    text = data.decode() if encoded.codec == "json" else base64.b64encode(data).decode("ascii")
    return {"codec": encoded.codec, "data": text}


def content_from_json(content: dict[str, Any]) -> tuple[str, bytes]:
    """Codec and bytes of a small content."""
    codec, text = content["codec"], content["data"]
    return codec, text.encode() if codec == "json" else base64.b64decode(text)
