"""`flowstore ui` as a process: its address, its port, its end, and the one file that it leaves."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import time
from urllib.parse import urlsplit

import pytest

from support.cli import command, ended, started
from support.flows import LINEAR, flow_source
from support.stores import make_store, names_beside

pytestmark = pytest.mark.long


@contextlib.contextmanager
def serving(path, *options, **env):
    """Run `flowstore ui` on a store; gives the process and the address that it prints first."""
    with started("-m", "flowstore", "ui", path, "--no-browser", *options, **env) as process:
        try:
            yield process, process.stdout.readline().decode().strip()
        finally:
            process.kill()


def get(url, path="", cookie=""):
    """How a request is answered: the code and the headers."""
    parts = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)) as connection:
        connection.request("GET", path or f"{parts.path}?{parts.query}", headers={"cookie": cookie})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers


def free_port():
    """A port that nobody uses now."""
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_from_the_address_to_the_end(path, number):
    """The printed address opens the pages; a signal ends it at once, with an open connection, and leaves one file."""
    port = free_port()
    with serving(make_store(path), "--port", port) as (process, url):
        assert url.startswith(f"http://127.0.0.1:{port}/?token=")
        assert get(url, "/")[0] == 403
        code, headers = get(url)
        cookie = headers["set-cookie"].partition(";")[0]
        assert (code, headers["location"]) == (303, "/")
        assert get(url, "/", cookie)[0] == get(url, "/run/F/1.json", cookie)[0] == 200
        with contextlib.closing(socket.create_connection(("127.0.0.1", port))) as waiting:
            waiting.sendall(b"GET /")
            began = time.monotonic()
            process.send_signal(number)
            result = ended(process)
            assert time.monotonic() - began < 5
    assert (result.code, result.stderr) == (128 + number, "")
    assert names_beside(path) == [path.name]


def test_the_end_of_a_question_without_end(path):
    """Ctrl-C ends a question in SQL too, at once and without a word."""
    endless = "/sql?q=with+recursive+n(x)+as+(select+1+union+all+select+x%2B1+from+n)+select+max(x)+from+n"
    with serving(make_store(path), "--port", free_port()) as (process, url):
        cookie = get(url)[1]["set-cookie"].partition(";")[0]
        get(url, "/sql?q=select+1", cookie)  # all that it needs is imported
        parts = urlsplit(url)
        with contextlib.closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)) as asking:
            asking.request("GET", endless, headers={"cookie": cookie})
            with contextlib.closing(socket.create_connection((parts.hostname, parts.port))) as other:
                other.sendall(b"GET /static/page.css HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert other.recv(12) == b"HTTP/1.1 200"  # sent after the question, and answered before it
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            result = ended(process)
            assert time.monotonic() - began < 5
    assert (result.code, result.stderr) == (130, "")
    assert names_beside(path) == [path.name]


def test_the_next_free_port(path):
    """Without --port a port that is taken is passed over; one that was asked for is an error."""
    make_store(path)
    with serving(path) as (_, first), serving(path) as (_, second):
        ports = urlsplit(first).port, urlsplit(second).port
        assert ports[0] != ports[1]
        result = command("ui", path, "--no-browser", "--port", ports[0], expect=1)
    assert result.stderr.startswith(f"Error: Port {ports[0]} of 127.0.0.1 cannot be used: Address already in use.")


def test_no_store(tmp_path):
    """Without a store there is nothing to show, and the message names the path."""
    assert "There is no store at" in command("ui", tmp_path / "none.db", "--no-browser", expect=1).stderr
    assert "No store found" in command("ui", "--no-browser", expect=1).stderr


def test_without_the_packages(path, tmp_path):
    """Where a package of the pages is missing, `ui` alone says so."""
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('no uvicorn', name='uvicorn')", "utf-8")
    make_store(path)
    with started("-m", "flowstore", "ui", path, "--no-browser", PYTHONPATH=tmp_path) as process:
        result = ended(process)
    assert (result.code, result.stderr.count("\n")) == (1, 1)
    assert "uvicorn is missing: pip install" in result.stderr
    with started("-m", "flowstore", "runs", "--store", path, PYTHONPATH=tmp_path) as process:
        assert ended(process).code == 0


def test_a_watched_run(flow):
    """A run goes on while its page is open and asked for; afterwards both are gone, and one file is left."""
    script = flow(flow_source(LINEAR))
    script("run")
    with serving(script.db, "--port", "0") as (process, url):
        cookie = get(url)[1]["set-cookie"].partition(";")[0]
        with script.start("run") as run:
            while run.poll() is None:
                assert get(url, "/run/F/latest", cookie)[0] == 200
        assert run.returncode == 0
        assert get(url, "/run/F/2", cookie)[0] == 200
        process.send_signal(signal.SIGINT)
        assert ended(process).code == 130
