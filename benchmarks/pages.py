"""Pages of `flowstore ui`: what it takes to ask a large store or a large run, against a small one.

Each contestant is a server of its own, which is asked as a browser would. Floor is the small one: 1,000 runs for the
list, 10 tasks for the page of a run. The size of a page is that of its HTML before compression. A run that is watched
is a fan-out whose page is loaded every 0.5 s while it runs; floor is the same run unwatched.
"""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.filled import fill
from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import Failed, Line, call_s, in_turns
from benchmarks.targets import at_most, times_floor

_LARGEST_PAGE_KB = 1500
_WATCHED_EVERY_S = 0.5


class Site:
    """A store that is served.

    Args:
        url: the address that the server printed.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
        self._headers: dict[str, str] = {}
        self._connection.request("GET", f"/?{parts.query}")
        response = self._connection.getresponse()
        response.read()
        self._connection.close()
        self._headers["cookie"] = str(response.getheader("set-cookie")).partition(";")[0]

    def get(self, path: str) -> bytes:
        """Return a page."""
        self._connection.request("GET", path, headers=self._headers)
        response = self._connection.getresponse()
        body = response.read()
        self._connection.close()  # the server ends one that rests for some seconds, as it does in others' turns
        if response.status != http.client.OK:
            raise Failed(f"{path} answers {response.status}")
        return body


@contextlib.contextmanager
def serving(store: Path) -> Iterator[Site]:
    """Serve a store with a process of its own."""
    command = [sys.executable, "-m", "flowstore", "ui", str(store), "--no-browser"]
    process = subprocess.Popen(
        command, env=FLOWSTORE.environment(store.parent), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise Failed(f"{' '.join(command)} printed no address")
        yield Site(next(word for word in line.split() if word.startswith("http")))
    finally:
        process.terminate()
        process.communicate(timeout=30)


def measure(settings: Settings) -> Iterator[Line]:
    yield from _lists(settings)
    yield from _runs(settings)
    yield _watched(settings)


def _lists(settings: Settings) -> Iterator[Line]:
    few, many = settings.size(1000, 100), settings.size(100_000, 1000)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sites = {}
        for runs in (few, many):
            (Path(folder) / str(runs)).mkdir()
            store = Path(folder) / str(runs) / "flowstore.db"
            fill(store, runs)
            sites[runs] = stack.enter_context(serving(store))
        for question in ("/", "/?tag=even", "/?status=failed", "/?tag=early&tag=late"):
            calls = {runs: partial(call_s, partial(site.get, question)) for runs, site in sites.items()}
            ms = {runs: [1000 * s for s in samples] for runs, samples in in_turns(calls, settings.rounds).items()}
            samples = {"floor": ms[few], "flowstore": ms[many]}
            yield Line(f"page {question}, {many:,} runs", "ms", samples, times_floor(1.5, f"{few:,} runs (as floor)"))


def _runs(settings: Settings) -> Iterator[Line]:
    few, many = 10, settings.size(10_000, 50)
    with contextlib.ExitStack() as stack:
        sites = {}
        for tasks in (few, many):
            folder = stack.enter_context(settings.folder())
            options = ["--tasks", tasks, "--max-num-splits", tasks, "--reuse-workers"]
            FLOWSTORE.run("fanout", folder, *options)
            sites[tasks] = stack.enter_context(serving(folder / "flowstore.db"))
        calls = {tasks: partial(call_s, partial(site.get, "/run/Fanout/1")) for tasks, site in sites.items()}
        ms = {tasks: [1000 * s for s in samples] for tasks, samples in in_turns(calls, settings.rounds).items()}
        samples = {"floor": ms[few], "flowstore": ms[many]}
        yield Line(f"page of a run, {many:,} tasks", "ms", samples, times_floor(5, f"{few} tasks (as floor)"))
        sizes = {
            name: [len(sites[tasks].get("/run/Fanout/1")) / 1000]
            for name, tasks in (("floor", few), ("flowstore", many))
        }
        yield Line(f"page of a run, {many:,} tasks", "kB", sizes, at_most(_LARGEST_PAGE_KB, "kB"))


def _watched(settings: Settings) -> Line:
    tasks = settings.size(1000, 30)
    samples = in_turns(
        {"floor": partial(_fan_out, settings, tasks), "flowstore": partial(_fan_out, settings, tasks, watched=True)},
        settings.rounds,
    )
    return Line(f"run of {tasks:,} tasks, watched", "s", samples, times_floor(1.05, "not watched"))


def _fan_out(settings: Settings, tasks: int, *, watched: bool = False) -> float:
    with settings.folder() as folder, contextlib.ExitStack() as stack:
        FLOWSTORE.run("fanout", folder, "--tasks", 1)
        if watched:
            site, ended = stack.enter_context(serving(folder / "flowstore.db")), threading.Event()
            thread = threading.Thread(target=_watch, args=(site, ended))
            thread.start()
            stack.callback(thread.join)
            stack.callback(ended.set)
        return FLOWSTORE.run("fanout", folder, "--tasks", tasks).wall_s


def _watch(site: Site, ended: threading.Event) -> None:
    """Ask for the page of the run again and again, as one that is open in a browser does."""
    while not ended.wait(_WATCHED_EVERY_S):
        with contextlib.suppress(Failed):  # it may not have begun
            site.get("/run/Fanout/latest")
