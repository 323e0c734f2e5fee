"""`@secrets`: environment variables of a step whose values are hidden wherever they would be shown.

A source is `inline`, with the values in the flow's own source, or `env-file`, a file of lines such as `TOKEN=abc`. The
driver reads them when a run begins, and each task of the step gets them with its order.

Every occurrence of a value of 8 characters or more in what the tasks of the run print, in errors and in cards, is
replaced by `***`. That is no protection from a step that encodes a value, or assigns it to `self`.
"""

from __future__ import annotations

import contextlib
import html
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from flowstore import context, later
from flowstore.errors import GraphError
from flowstore.flow.decorators import StepDecorator, decorate

HIDDEN = "***"
SHORTEST = 8  # characters; shorter values are words that occur anyway
_STANDARD = 1, 2  # the descriptors of stdout and stderr
INLINE, ENV_FILE = "inline", "env-file"
_HOW = (
    'Write {"type": "env-file", "options": {"path": ".env"}}, or '
    '{"type": "inline", "options": {"env_vars": {"NAME": "value"}}}.'
)


@later.frozen(kw_only=True)
class Secrets(StepDecorator):
    """Set environment variables for the step's tasks."""

    name: ClassVar[str] = "secrets"
    sources: Sequence[Any] = ()
    role: str | None = None
    allow_override: bool = False

    def __repr__(self) -> str:
        return f"Secrets(<{len(self.sources)}>)"  # no message may show the values

    def __attrs_post_init__(self) -> None:
        if isinstance(self.sources, str) or not isinstance(self.sources, Sequence):
            raise GraphError(f"@secrets: sources must be a list. {_HOW}")
        if self.role is not None:
            raise GraphError("@secrets: there are no roles here, since no source is a service. Remove role=…")
        for source in self.sources:
            _kind(source)

    @property
    def has_inline(self) -> bool:
        """Whether values stand in the source of the flow."""
        return any(_kind(source)[0] == INLINE for source in self.sources)

    def values(self, step: str, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the variables.

        Args:
            step: the step's name, for messages.
            environment: the variables that the step has anyway, beside those of this process.

        Raises:
            GraphError: a source cannot be read, or a variable is there already.
        """
        values: dict[str, str] = {}
        for source in self.sources:
            kind, options = _kind(source)
            for name, value in (_inline(options) if kind == INLINE else _of_file(options)).items():
                _check(step, name, value)
                if name in values:
                    raise GraphError(f"Step {step}: two sources of @secrets have the variable {name}. Remove one.")
                if (name in os.environ or name in environment) and not self.allow_override:
                    raise GraphError(
                        f"Step {step}: @secrets would replace the variable {name}, which is set already. "
                        "If it is to, write allow_override=True."
                    )
                values[name] = value
        return values


def secrets(function: Any = None, **options: Any) -> Any:
    """Set environment variables for this step's tasks, and hide their values in logs, errors and cards.

    Args:
        function: the step, where used without parentheses.
        options: `sources`, a list of `{"type": "env-file", "options": {"path": ".env"}}`, or in short
            `"env-file:.env"`, and of `{"type": "inline", "options": {"env_vars": {"NAME": "value"}}}`;
            `allow_override`, whether variables may be replaced that are set already.
    """
    return decorate(Secrets, function, options)


def _kind(source: Any) -> tuple[str, Mapping[str, Any]]:
    """Return the type of a source, and its options."""
    if isinstance(source, str):
        kind, separator, path = source.partition(":") if source.startswith(f"{ENV_FILE}:") else source.partition(".")
        if kind == ENV_FILE and separator and path:
            return ENV_FILE, {"path": path}
        raise GraphError(f"@secrets: there is no source {source!r}. {_HOW}")
    kind = str(source.get("type")) if isinstance(source, Mapping) else ""
    if kind not in {INLINE, ENV_FILE}:
        raise GraphError(f"@secrets: there are no sources of the type {kind!r}. {_HOW}")
    given = source.get("options") or {}
    if not isinstance(given, Mapping):
        raise GraphError(f"@secrets: options of a source of the type {kind!r} must be a dict. {_HOW}")
    options = {"path": source.get("id"), **given}
    wanted = "env_vars" if kind == INLINE else "path"
    if not isinstance(options.get(wanted), Mapping if kind == INLINE else str):
        raise GraphError(f"@secrets: a source of the type {kind!r} needs {wanted}. {_HOW}")
    return kind, options


def _inline(options: Mapping[str, Any]) -> dict[str, Any]:
    return dict(options["env_vars"])


def _of_file(options: Mapping[str, Any]) -> dict[str, str]:
    """Read a file of variables; messages show none of its text."""
    path = options["path"]
    try:
        lines = Path(path).expanduser().read_text("utf-8").splitlines()
    except OSError as error:
        raise GraphError(f"@secrets: {path} cannot be read: {error.strerror}. Name another file.") from None
    except UnicodeDecodeError:
        raise GraphError(f"@secrets: {path} cannot be read: it is not text in UTF-8. Name another file.") from None
    except (RuntimeError, ValueError):  # ~ of somebody who has no home, or a NUL
        raise GraphError(f"@secrets: {path!r} is no path of a file. Name another one.") from None
    values: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip().removeprefix("export ").lstrip()
        name, equals, value = text.partition("=")
        if not text or text.startswith("#"):
            continue
        if not equals:
            raise GraphError(f"@secrets: line {number} of {path} is not of the form NAME=VALUE.")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        values[name.strip()] = value
    return values


def _check(step: str, name: Any, value: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise GraphError(f"Step {step}: @secrets has {name!r}, which cannot be a variable.")
    if name.startswith(("FLOWSTORE_", "METAFLOW_")):
        raise GraphError(f"Step {step}: @secrets cannot set {name}, which is flowstore's own. Use another name.")
    if not isinstance(value, str) or "\0" in value or not context.is_text(value):
        raise GraphError(f"Step {step}: @secrets: the value of {name} is not a text. Write it as a text in quotes.")


# --- hiding values


class Redactor:
    """Replaces every occurrence of some values by `***`, also where occurrences overlap.

    Example:
        >>> Redactor(["password1", "word1234"]).text("my password1234!")
        'my ***!'
    """

    def __init__(self, values: Iterable[str]) -> None:
        self._values = sorted({value.encode("utf-8", "surrogatepass") for value in values if len(value) >= SHORTEST})

    def __bool__(self) -> bool:
        return bool(self._values)

    def text(self, text: str) -> str:
        """Return a text without the values."""
        data = text.encode("utf-8", "surrogatepass")
        return Stream(self._values).feed(data, end=True).decode("utf-8", "surrogatepass")

    def stream(self) -> Stream:
        """Return a stream that replaces the values."""
        return Stream(self._values)


class Stream:
    """One stream of bytes; what may be the beginning of a value is held back until it is known to be none."""

    def __init__(self, values: Sequence[bytes]) -> None:
        self._values = values
        self._held = b""
        self._covered = 0  # bytes at its beginning that belong to an occurrence which was replaced already

    def feed(self, data: bytes, *, end: bool = False) -> bytes:
        """Return the next bytes without the values; all that is left where this is the end."""
        data = self._held + data
        until = len(data) if end else self._undecided(data)
        output: list[bytes] = []
        at = 0
        for start, stop in self._occurrences(data):
            if start >= until:
                break
            output.append(data[at:start])
            if not (self._covered and start == 0):
                output.append(HIDDEN.encode())
            at = stop
        output.append(data[at:until])
        self._held, self._covered = data[until:], max(0, at - until)
        return b"".join(output)

    def _undecided(self, data: bytes) -> int:
        """Return where the earliest end of the data begins that could go on to be a value."""
        longest = max(map(len, self._values), default=1) - 1
        for start in range(max(0, len(data) - longest), len(data)):
            if any(len(value) > len(data) - start and value.startswith(data[start:]) for value in self._values):
                return start
        return len(data)

    def _occurrences(self, data: bytes) -> list[tuple[int, int]]:
        """Return where values stand, in order, those that overlap as one."""
        spans = [(0, self._covered)] if self._covered else []
        for value in self._values:
            start = data.find(value)
            while start >= 0:
                spans.append((start, start + len(value)))
                start = data.find(value, start + 1)
        merged: list[tuple[int, int]] = []
        for start, stop in sorted(spans):
            if merged and start < merged[-1][1]:
                merged[-1] = merged[-1][0], max(stop, merged[-1][1])
            else:
                merged.append((start, stop))
        return merged


@contextlib.contextmanager
def set_for_task(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the time of a task, and have errors and cards hide them."""
    before = {name: os.environ.get(name) for name in values}
    hide: Callable[[str], str] = Redactor([*values.values(), *map(html.escape, values.values())]).text
    os.environ.update(values)
    context.state.hide = hide
    try:
        yield
    finally:
        context.state.hide = None
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def hidden_output(redactor: Redactor) -> Iterator[None]:
    """Hide values in what this process, and others that it starts, print meanwhile.

    A process of its own passes the output on, so that nothing of it is lost if this one crashes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in _STANDARD]
    pipes = [os.pipe() for _ in _STANDARD]
    ended, end = os.pipe()
    forwarder = os.fork()
    if forwarder == 0:
        try:
            for _, write in (*pipes, (ended, end)):
                os.close(write)
            _pass_on({read: (redactor.stream(), to) for (read, _), to in zip(pipes, kept, strict=True)}, ended)
        finally:
            os._exit(0)
    for (read, write), number in zip(pipes, _STANDARD, strict=True):
        os.dup2(write, number)
        os.close(read)
        os.close(write)
    os.close(ended)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for copy, number in zip(kept, _STANDARD, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(end)
        os.waitpid(forwarder, 0)


def _pass_on(streams: dict[int, tuple[Stream, int]], ended: int) -> None:
    """Pass on what comes in, until no more can come, or until all has come and the end is announced."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the step
    while ready := select.select([*streams, ended], [], [])[0]:
        if ready == [ended]:
            break
        for number in ready:
            if number != ended:
                data = os.read(number, 1 << 16)
                _write(streams[number][1], streams[number][0].feed(data, end=not data))
                if not data:
                    del streams[number]
    for stream, to in streams.values():
        _write(to, stream.feed(b"", end=True))


def _write(number: int, data: bytes) -> None:
    with open(number, "wb", buffering=0, closefd=False) as file:
        while data:
            data = data[file.write(data) or 0 :]
