"""`flowstore ui`: a port, an address with a token, a browser, and an end that leaves one file."""

from __future__ import annotations

import contextlib
import functools
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from urllib.parse import quote

import attrs

from flowstore.context import home
from flowstore.errors import FlowstoreError
from flowstore.sqlite import files

if TYPE_CHECKING:
    import uvicorn

PORT = 8765
_TRIES = 100  # ports after the first
_OPENING_S = 20  # in which a browser reads the file that leads to the address
_ANY = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  # a name, nothing is bound to it


@attrs.frozen
class Options:
    """How to serve: see `flowstore ui --help`."""

    port: int | None = None
    host: str = "127.0.0.1"
    allow_host: tuple[str, ...] = ()
    no_browser: bool = False
    read_only: bool = False
    page: str = "/"  # the page whose address is printed and opened


def serve(path: Path, options: Options, say: Callable[[str], None]) -> int:
    """Serve a store until a signal comes.

    Args:
        path: the store's file.
        options: where, to whom, and how.
        say: prints the address.

    Returns:
        The exit code, which names the signal.

    Raises:
        FlowstoreError: a package is missing, or the port is taken.
    """
    try:
        import uvicorn

        from flowstore.web.app import create_app
        from flowstore.web.security import Access
        from flowstore.web.stores import Stores
    except ImportError as error:
        raise FlowstoreError(
            f"flowstore ui needs starlette, jinja2 and uvicorn, and {error.name} is missing: pip install starlette "
            "jinja2 uvicorn"
        ) from error
    with contextlib.closing(_listen(options.host, options.port)) as listening:
        port = listening.getsockname()[1]
        hosts = [*options.allow_host, *([] if options.host in _ANY else [options.host])]
        access = Access.to(path, port, hosts)
        stores = Stores(path, read_only=options.read_only)
        mark = "&" if "?" in options.page else "?"
        url = f"http://{_name(options.host)}:{port}{options.page}{mark}token={quote(access.token, safe='')}"
        config = uvicorn.Config(
            create_app(stores, access),
            log_level="critical",  # what fails in a page is printed by the application
            access_log=False,
            server_header=False,
            lifespan="on",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        try:
            announce = functools.partial(_announce, url, say, browser=not options.no_browser)
            return _run(uvicorn.Server(config), listening, announce, stores.end)
        finally:
            stores.close()  # where a second signal ended it, the application has not


def _run(
    server: uvicorn.Server, listening: socket.socket, announce: Callable[[], None], end: Callable[[], None]
) -> int:
    """Serve until SIGINT or SIGTERM; return 128 and the number of the signal."""
    import asyncio

    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        server.should_exit = True
        server.force_exit = len(received) > 1
        threading.Thread(target=end, daemon=True).start()

    @contextlib.contextmanager
    def ours() -> Iterator[None]:
        yield

    # uvicorn would take the signals itself, and end by sending them again: before the store is closed.
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    server.capture_signals = ours  # type: ignore[method-assign]
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        announce()
        asyncio.run(server.serve(sockets=[listening]))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + received[0] if received else 1


def _listen(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens at a port; at the first one that is free, if none is chosen."""
    for candidate in [port] if port is not None else [*range(PORT, PORT + _TRIES), 0]:
        try:
            return _bound(host, candidate)
        except socket.gaierror as error:
            raise FlowstoreError(f"{host} is not a name or address of this machine: {error.strerror}.") from error
        except OSError as error:
            reason = error
    if port is None:
        raise FlowstoreError(f"No port of {host} can be used: {reason.strerror}. Choose another with --host.")
    raise FlowstoreError(f"Port {port} of {host} cannot be used: {reason.strerror}. Choose another with --port.")


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except BaseException:
        listening.close()
        raise
    return listening


def _name(host: str) -> str:
    """Return the host as it stands in a URL."""
    if host in _ANY:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _announce(url: str, say: Callable[[str], None], *, browser: bool) -> None:
    say(url)
    if browser:
        threading.Thread(target=_open_browser, args=(url,), daemon=True).start()


def _open_browser(url: str) -> None:
    """Open the address in the user's browser, where there is a screen.

    The command line of a browser is seen by everybody on the machine, so it names a file of the user's, which leads
    to the address.
    """
    import os
    import time
    import webbrowser

    screen = sys.platform in {"darwin", "win32"} or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    if not screen:
        return
    page = f'<!doctype html><title>flowstore</title><meta http-equiv="refresh" content="0;url={url}">'
    final = home() / "ui.html"
    with contextlib.suppress(webbrowser.Error, OSError):  # the address is printed, too
        final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.remove_abandoned(final)
    with contextlib.suppress(webbrowser.Error, OSError), files.temporary_file(final, 0o600) as temporary:
        temporary.write_text(page, "utf-8")
        if webbrowser.open(temporary.as_uri()):
            time.sleep(_OPENING_S)
