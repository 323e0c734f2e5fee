"""Reads what Metaflow keeps beside the artifacts: cards of tasks, what they printed, and packages of a run's code."""

from __future__ import annotations

import heapq
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from flowstore.context import is_text
from flowstore.store.codecs.contract import File
from flowstore.transfer.metaflow_history.folder import Folder, Problem, clean
from flowstore.transfer.metaflow_history.values import Artifact, Value, Values, unpacked

CARDS = "mf.cards"
MAX_CARD = 64 << 20
_MAX_FILE, _MAX_CODE, _MAX_PACKAGE = 4 << 20, 64 << 20, 512 << 20
_MAX_HEADERS = 8 << 20  # of members: tarfile keeps these, and reads each as a whole
_MOST_FILES = 5000
_CARD_FILE = re.compile(r"(?P<type>[^-/]+)-(?:(?P<id>.+)-)?(?P<hash>[0-9a-f]+)\.html")
_METAFLOW = re.compile(r"\.mf_|(metaflow|metaflow_extensions|_vendor)/|INFO$|CONFIG_PARAMETERS$|CONFIG$|DIST_INFO$")


@attrs.frozen(eq=False)
class Card:
    """A card of an attempt.

    Attributes:
        path: its file.
        type: its kind.
        id: the id that `@card` has.
        attempt: the number of the attempt; `None` where it is not recorded.
    """

    path: str
    type: str
    id: str | None
    attempt: int | None


def cards_of(folder: Folder, task: str, infos: Mapping[str, int]) -> list[Card]:
    """Return the cards of a task, in an order that stays the same.

    Args:
        folder: where they are.
        task: the path of the task.
        infos: what is recorded of cards, as JSON, each with the attempt that recorded it.
    """
    known: dict[str, tuple[str, Any, int | None]] = {}
    for text, attempt in infos.items():
        try:
            info = json.loads(text)
            known[str(info["card_uuid"])] = (clean(str(info["type"]))[:200], info.get("id"), attempt)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # the name of the file says most of it, too
    flow, run_id, step, task_id = task.split("/")
    path = f"{CARDS}/{flow}/runs/{run_id}/steps/{step}/tasks/{task_id}/cards"
    cards = []
    for name in folder.list(path)[1]:
        match = _CARD_FILE.fullmatch(name)
        if match is None:
            continue
        kind, card_id, number = known.get(match["hash"], (match["type"], match["id"], None))
        named = clean(card_id)[:200] if type(card_id) is str else None
        cards.append(Card(f"{path}/{name}", kind, named or None, number))
    return cards


def stage_card(values: Values, folder: Folder, card: Card) -> Value:
    """Return the HTML of a card, which is staged; raise Problem where it is too large or no text."""
    return values.stage_html(card.path, lambda: _html(folder, card))


def _html(folder: Folder, card: Card) -> str:
    file = folder.open(card.path)
    if file is None:
        raise Problem(card.path, "it is missing")
    with file:
        data = file.read(MAX_CARD + 1)
    if len(data) > MAX_CARD:
        raise Problem(card.path, "it is too large for a card")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Problem(card.path, "it is not UTF-8") from error


@attrs.frozen(eq=False)
class Code:
    """The code of a run.

    Attributes:
        script_name: the path of the flow's file.
        files: the source files, by path.
    """

    script_name: str
    files: Mapping[str, bytes]


def code_of(values: Values, flow: str, sha1: str, script_name: str) -> Code | None:
    """Return the code in a package, without Metaflow's own; `None` where the flow's file is not in it.

    Args:
        values: reads the package.
        flow: the flow.
        sha1: the package's address.
        script_name: the path of the flow's file.

    Raises:
        Problem: the package is missing, damaged, or no archive.
    """
    package = _Package(Artifact(flow, sha1, None, ""))
    files: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(fileobj=File(package.pieces(values)), mode="r|") as archive:
            for member in archive:
                package.add(member)
                if not member.isfile() or not _is_wanted(member.name) or member.size > _MAX_FILE:
                    continue
                total += member.size
                file = archive.extractfile(member)
                if file is None or total > _MAX_CODE or len(files) >= _MOST_FILES:
                    raise Problem(package.path, "it holds too much for a package of code")
                files[member.name] = file.read()
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise Problem(package.path, "it is not a package of code") from error
    return Code(script_name, files) if script_name in files else None


class _Package:
    """A package of code, of which so much is read that neither its files nor its headers fill the memory."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self.path = artifact.path
        self._files_bytes = 0

    def add(self, member: tarfile.TarInfo) -> None:
        """Note a member, so that its bytes do not count as headers."""
        if member.isreg() and not member.issparse():
            self._files_bytes += max(0, member.size)

    def pieces(self, values: Values) -> Iterator[bytes]:
        """Yield its bytes, unpacked; raise Problem where they are too many."""
        size = 0
        for piece in unpacked(values.pieces(self._artifact), self.path):
            if size > _MAX_PACKAGE or size - self._files_bytes > _MAX_HEADERS:
                raise Problem(self.path, "it is too large for a package of code")
            size += len(piece)
            yield piece


def _is_wanted(name: str) -> bool:
    """Return whether a member is a file of the user's, below the archive's own folder."""
    parts: Sequence[str] = name.split("/")
    safe = is_text(name) and not re.search(r"[\x00-\x1f\x7f\\]", name) and len(name) < 500
    return safe and not {"", ".", ".."} & set(parts) and _METAFLOW.match(name) is None


# --- logs: files of lines, each with the time at which it was read

_MARKED = re.compile(rb"\[!?MFLOG\|[0-9]+\|([0-9T:.-]{10,40}Z?)\|[^|\]]*\|[^|\]]*\]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_LINE = 1 << 20
_MAX_CHUNK = 8192

Line = tuple[int, int, str, str]  # time, a counter that keeps the order, stream, text


def log_rows(
    folder: Folder, log_id: int, logs: Mapping[str, Sequence[str]], times: tuple[int, int]
) -> Iterator[tuple[int, str, int, str]]:
    """Yield the rows of an attempt's log: its id, stream, time and text of each piece.

    Args:
        folder: where the files are.
        log_id: the log's id.
        logs: by stream, its files.
        times: when the attempt began, in milliseconds since 1970, which is the time of lines without one; and now,
            which is that of lines from the future.
    """
    files = [(stream, path) for stream, paths in logs.items() for path in paths]
    lines = heapq.merge(*(_lines(folder, stream, path, *times) for stream, path in files))
    pending: tuple[str, int, str] | None = None
    for at_ms, _, stream, text in lines:
        if pending is not None and pending[:2] == (stream, at_ms) and len(pending[2]) < _MAX_CHUNK:
            pending = stream, at_ms, pending[2] + text
            continue
        if pending is not None:
            yield log_id, *pending
        pending = stream, at_ms, text
    if pending is not None:
        yield log_id, *pending


def _lines(folder: Folder, stream: str, path: str, at_ms: int, latest_ms: int) -> Iterator[Line]:
    """Yield the lines of one file, in order; one without a time has that of the line before it."""
    file = folder.open(path)
    if file is None:
        return
    count = 0
    with file:
        for line in iter(lambda: file.readline(_MAX_LINE), b""):
            match = _MARKED.match(line)
            if match is not None:
                at_ms = max(at_ms, min(_time(match[1]), latest_ms))
            text = line if match is None else line[match.end() :].removesuffix(b"\n") + b"\n"
            count += 1
            yield at_ms, count, stream, text.decode("utf-8", "replace").replace("\0", "")


def _time(text: bytes) -> int:
    try:
        moment = datetime.fromisoformat(text.decode().removesuffix("Z"))
    except ValueError:
        return 0
    return (moment.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
