"""Attacks on the pages: odd requests, stores that lie or vanish, questions without end, a crowd, and sudden ends."""

from __future__ import annotations

import concurrent.futures
import contextlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from urllib.parse import quote, urlsplit

import pytest

import flowstore
from flowstore.web import stores as web_stores
from flowstore.web.pages import sql as sql_page
from support.canaries import FORMS, hostile_stores
from support.cli import ended, started
from support.flows import FOREACH, flow_source
from support.hostile import UNSAFE
from support.processes import AS_NOBODY, wait_for
from support.recording import store_with
from support.stores import assert_sound, make_store, names_beside, untouched
from support.web import Browser

ENDLESS = quote("with recursive n (x) as (select 1 union all select x + 1 from n) select max(x) from n")
PAGES = (
    "/", "/runs.json", "/flows", "/flows.json", "/flow/F", "/flow/F.json", "/run/F/1", "/run/F/1.json",
    "/run/F/1?expand=body", "/code/F/1", "/task/F/1/start/1", "/task/F/1/start/1.json", "/cards/F/1", "/cards/F/1.json",
    "/card/F/1/start/1/0", "/compare", "/compare?run=F/1&run=F/2&all=1", "/compare.json?run=F/1&run=F/2",
    "/search?q=e", "/search.json?q=e", "/sql?q=select+*+from+run_summary", "/sql.json?q=select+*+from+artifact_values",
    "/sql?as=csv&q=select+*+from+task_summary", "/deployments", "/deployments.json",
)  # fmt: skip


# --- requests as no browser sends them


class Wire:
    """`flowstore ui` in a process of its own, and bytes that are sent to it."""

    def __init__(self, process, url):
        self.process = process
        parts = urlsplit(url)
        self.port = parts.port
        self.token = parts.query.partition("token=")[2]

    def send(self, request, timeout=20):
        """All that is answered to these bytes, until the connection is closed; nothing if it is closed at once."""
        answer = b""
        with contextlib.closing(socket.create_connection(("127.0.0.1", self.port), timeout)) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(request)
                while chunk := connection.recv(1 << 16):
                    answer += chunk
        return answer

    def ask(self, path="/", *headers, method="GET", version="1.1", host="127.0.0.1", body=b"", timeout=20):
        """The code and the text that are answered to a request with the token."""
        lines = [f"{method} {path} HTTP/{version}", *([] if host is None else [f"Host: {host}"]), *headers]
        lines += [f"Authorization: Bearer {self.token}", "Connection: close", f"Content-Length: {len(body)}"]
        request = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
        head, _, text = self.send(request, timeout).partition(b"\r\n\r\n")
        return (int(head.split()[1]) if head else 0), text


@contextlib.contextmanager
def serving(path, *options, **env):
    """Run `flowstore ui` on a store; gives a `Wire`, whose process is killed at the end."""
    with started("-m", "flowstore", "ui", path, "--no-browser", "--port", 0, *options, **env) as process:
        try:
            yield Wire(process, process.stdout.readline().decode().strip())
        finally:
            process.kill()


@pytest.fixture(scope="module")
def wire(tmp_path_factory):
    """A server at a store of one run, for requests that change nothing."""
    folder = tmp_path_factory.mktemp("wire")
    with serving(make_store(folder / "flowstore.db"), FLOWSTORE_HOME=folder / "home") as wire:
        yield wire


HOSTS = {
    "127.0.0.1:99999": 200, "LOCALHOST:80": 200, "[::1]": 200, "[0:0:0:0:0:0:0:1]:80": 200, "localhost.": 403,
    "127.0.0.1.": 403, "0x7f.1": 403, "2130706433": 403, "0.0.0.0": 403, "[::]": 403, "[::ffff:8.8.8.8]": 403,
    "user@localhost": 403, "localhost@evil.example": 403, "localhost/evil": 403, "localhost#": 403, "localhost,evil": 403,
    "localhost evil": 403, "[localhost]": 403, "[127.0.0.1": 403, "localhost:-1": 403, "localhost:1:2": 403,
    "evil.example:8765": 403, "xn--lcalhost-n1a": 403, "\u00b2.0.0.1": 403,
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("host", HOSTS)
def test_names_of_hosts(wire, host):
    """Only loopback in one of its usual forms is answered, whatever the case and the port."""
    assert wire.ask(host=host)[0] == HOSTS[host]


@pytest.mark.long
@pytest.mark.parametrize(
    ("request_", "codes"),
    {
        "no host": ({"host": None}, {400, 403}),
        "no host, as of 1992": ({"host": None, "version": "1.0"}, {403}),
        "the old version": ({"version": "1.0"}, {200}),
        "two hosts": ({"headers": ["Host: evil.example"]}, {400, 403}),
        "the same host twice": ({"headers": ["Host: 127.0.0.1"]}, {400, 403}),
        "another host in the target": ({"path": "http://evil.example/runs"}, {200, 400, 403, 404}),
        "a target that is a host": ({"path": "evil.example:443", "method": "CONNECT"}, {400, 403, 404, 405}),
        "all of the server": ({"path": "*", "method": "OPTIONS"}, {400, 403, 404, 405}),
        "options": ({"method": "OPTIONS"}, {403, 405}),
        "trace": ({"method": "TRACE"}, {400, 403, 405}),
        "no method at all": ({"method": "BREW"}, {400, 403, 405}),
        "a lower-case method": ({"method": "get"}, {200, 400, 403, 405}),
        "a host of a proxy": ({"headers": ["X-Forwarded-Host: evil.example"]}, {200}),
        "an upgrade": ({"headers": ["Upgrade: websocket", "Sec-WebSocket-Key: x"]}, {200, 400, 403, 426}),
        "a long path": ({"path": "/run/" + "a" * 60_000}, {400, 404, 414, 431}),
        "a longer path": ({"path": "/" + "a" * 1_000_000}, {0, 400, 404, 414, 431}),
        "a long query": ({"path": "/?" + "a=b&" * 10_000}, {200, 400}),
        "a header that is too long": ({"headers": ["X-Long: " + "a" * 1_000_000]}, {0, 400, 431}),
        "many cookies": ({"headers": ["Cookie: " + "; ".join(f"c{n}=1" for n in range(3000))]}, {200}),
        "a broken cookie": ({"headers": ['Cookie: a="\\; =; ;;; flowstore-1-x=\xff']}, {200}),
    }.values(),
)  # fmt: skip
def test_requests_that_no_browser_sends(wire, request_, codes):
    """Each is answered with a code that says so, or cut off; none is a failure, and the next one is answered."""
    request_ = dict(request_)
    code, text = wire.ask(request_.pop("path", "/"), *request_.pop("headers", ()), **request_)
    assert code in codes, text[:500]
    assert b"evil.example" not in text
    assert wire.ask()[0] == 200


def test_a_head_has_no_text(wire):
    """HEAD is answered with the headers of the page alone, of an error too."""
    assert wire.ask(method="HEAD") == (200, b"")
    assert wire.ask("/nothing", method="HEAD") == (404, b"")
    assert wire.ask(method="HEAD", host="evil.example") == (403, b"")


@pytest.mark.long
@pytest.mark.parametrize(
    "path",
    [
        "/../../../etc/passwd", "/static/../../../../etc/passwd", "/static/..%2f..%2fapp.py", "/static/%2fetc%2fpasswd",
        "/docs/..%2f..%2ferrors", "/docs/%2e%2e/%2e%2e/errors.py", "/docs//etc/passwd", "/docs/..%5c..%5cerrors",
        "/docs/tutorial%00.md", "/docs/tutorial.md%00", "/static/page.css%00", "/%00", "/run/F/1%00", "/run/F%00/1",
        "/run/F/%2e%2e", "/run/F/1/../../../etc", "/task/F/1/end/1%2f..%2f2", "/artifact/F/1/end/1/..%2f..%2f..%2fetc",
        "/artifact/F/1/end/1/%00", "/artifact/F/1/end/1/" + "x" * 30_000, "/run/F/" + "9" * 4000, "/run/F/1e3",
        "/run/F/%ef%bc%91", "/run/%ff%fe/1", "/run/F/-1", "/card/F/1/end/1/" + "9" * 5000, "/code/F/..", "//run/F/1",
        "/run//F/1", "/run/F/1/", "/%2e%2e%2frun/F/1", "/run/F/1;x=y", "/run/F%2f1", "/run/F/1%0d%0aSet-Cookie:%20a=b",
    ],
)  # fmt: skip
def test_odd_addresses(wire, path):
    """Slashes, dots, zero bytes and endless names lead to a page that says there is nothing."""
    code, text = wire.ask(path)
    assert code in {404, 400}, text[:500]
    assert b"root:" not in text
    assert b"class FlowstoreError" not in text
    assert b"Traceback" not in text


@pytest.mark.parametrize(
    "query",
    [
        "a=" + "b" * 60_000, "&" * 60_000, "%00=%00", "sort=%00", "sort=" + "-" * 5000, "limit=" + "9" * 5000,
        "limit=-1", "limit=0", "limit=%C2%B2", "after=x", "after=F/99999999999999999999", "since=99999999999w",
        "since=9999-99-99", "user=%ff", "tag=%ed%a0%80", "columns=" + "%22" * 500, "columns=a'b%22;--", "status=nothing",
        "over=%00", "plot=%00&over=a", "flow=" + "%2e%2e%2f" * 50, "namespace=%00", "text=%25%25%25", "version=%00",
        *(f"a{n}=1" for n in (1,)), "&".join(f"columns=c{n}" for n in range(900)), "&".join(["run=F/1"] * 5000),
    ],
)  # fmt: skip
def test_odd_queries(browse, path, query):
    """Whatever stands behind the question mark: a page, or one that says what is wrong with it."""
    browser = browse(store_with(path, {"parameters": {"a": 1}, "code": "pass\n"}))
    for url in ("/", "/runs.json", "/run/F/1", "/task/F/1/start/1", "/compare", "/search", "/sql", "/cards/F/1"):
        mark = "&" if url == "/search" else "?"
        answer = browser.stranger.get(f"{url}{'?q=e' if mark == '&' else ''}{mark}{query}", headers=browser.headers)
        assert answer.status_code in {200, 400, 404}, (url, answer.text[:500])


# --- changes that nobody asked for


ORIGINS = {
    "null": 403, "http://127.0.0.1:8765": 303, "HTTP://127.0.0.1:8765": 303, "https://127.0.0.1:8765": 303,
    "http://127.0.0.1": 403, "http://127.0.0.1:8766": 403, "http://127.0.0.1:87650": 403, "ftp://127.0.0.1:8765": 403,
    "http://127.0.0.1:8765/": 403, "http://127.0.0.1:8765.evil.example": 403, "http://localhost:8765": 403,
    "http://evil.example": 403, "": 403, "http://user@127.0.0.1:8765": 403, "127.0.0.1:8765": 403,
}  # fmt: skip


def test_a_change_from_each_origin(browse, path):
    """Only a page of the very host that is asked may change a tag, once, whatever the other headers say."""
    browser = browse(make_store(path))
    for n, (origin, code) in enumerate(ORIGINS.items()):
        browser.send("/run/F/1/tags", code, origin=origin, add=f"tag{n}")
    browser.send("/run/F/1/tags", 403, origin=None, add="none")
    headers = [*browser.headers.items(), ("origin", "http://127.0.0.1:8765"), ("origin", "http://evil.example")]
    assert browser.stranger.post("/run/F/1/tags", data={"add": "two"}, headers=headers).status_code == 403
    assert sorted(browser.json("/run/F/1.json")["tags"]) == ["blue", "tag1", "tag2", "tag3"]


def test_a_cookie_of_another_port_or_store(browse, path, tmp_path):
    """The token of another server opens nothing, under whatever name it comes; ours under another name neither."""
    browser, other = browse(make_store(path)), browse(make_store(tmp_path / "other.db"))
    assert browser.access.cookie != other.access.cookie
    pairs = ((browser.access.cookie, other.token), (other.access.cookie, browser.token), ("token", browser.token))
    for name, value in (*pairs, (browser.access.cookie.upper(), browser.token), (browser.access.cookie, "")):
        assert browser.stranger.get("/", headers={"cookie": f"{name}={value}"}).status_code == 403, name
    both = f"{other.access.cookie}={other.token}; {browser.access.cookie}={browser.token}"
    assert browser.stranger.get("/", headers={"cookie": both}).status_code == 200
    assert browser.stranger.post(f"/run/F/1/tags?token={browser.token}", data={"add": "x"}).status_code == 403
    assert browser.stranger.get("/", params={"token": browser.token[:-1]}).status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xff\xfe", b"add=%00", b"add=" + b"&add=" * 5000, b"remove=nothing", b"add=" + b"x" * 900_000,
        b"add=%ed%a0%80", b"--x\r\nContent-Disposition: form-data; name=add\r\n\r\nx\r\n--x--", b'{"add": "x"}',
        b"&".join(b"f%d=1" % n for n in range(2000)), b"note=%00%1b%5b2J", b"note=" + "\u202e".encode(),
    ],
    ids=range(12),
)  # fmt: skip
def test_odd_forms(browse, path, body):
    """What no form of ours sends is refused with a page, or harmless."""
    browser = browse(make_store(path))
    headers = {**browser.headers, "origin": "http://127.0.0.1:8765", "content-type": "multipart/form-data; boundary=x"}
    for url in ("/run/F/1/tags", "/run/F/1/note", "/run/F/9/tags", "/run/%00/1/note"):
        answer = browser.stranger.post(url, content=body, headers=headers)
        assert answer.status_code in {303, 400, 404, 413}, (url, answer.text[:500])
    assert not UNSAFE.search(browser.page("/run/F/1"))


# --- a stranger's file


def walk(browser, pages=PAGES):
    """What is wrong with the answers to all pages: a failure, a control character, a script, a formula."""
    for url in pages:
        answer = browser.stranger.get(url, headers=browser.headers)
        if answer.status_code == 500:
            yield f"{url}: {answer.text[-600:]}"
        elif "/card/" not in url and (found := UNSAFE.search(answer.text)):
            yield f"{url} shows {found[0]!r}"


def assert_silent(tmp_path, form, every):
    """Walk all pages of the stores with this form of a canary in one column; nothing is wrong, and no code runs."""
    wrong = {}
    for what, path in hostile_stores(tmp_path / "good.db", tmp_path, form, every):
        began = time.monotonic()
        browser = Browser(path)
        if problems := list(walk(browser)):
            wrong[what] = problems
        browser.close()
        assert time.monotonic() - began < 20, what
        assert not (tmp_path / "exploded").exists(), what
        for rest in tmp_path.glob("hostile.db*"):
            rest.unlink()
    assert wrong == {}


@pytest.mark.parametrize("form", ["pickle", "tricks"])
def test_pages_of_a_stranger_s_file(tmp_path, stranger, form):
    """A pickle or tricks in some of the columns: each page is shown or says what is wrong; nothing runs."""
    stranger()
    assert_silent(tmp_path, form, every=12)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("form", FORMS)
def test_pages_of_all_strangers_files(tmp_path, stranger, form):
    """Anything in any column."""
    stranger()
    assert_silent(tmp_path, form, every=1)
