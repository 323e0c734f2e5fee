"""Attacks on the pages: odd requests, stores that lie or vanish, questions without end, a crowd, and sudden ends."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import socket
import sqlite3
import threading
import time
from urllib.parse import quote, urlsplit

import pytest

from flowstore.web import stores as web_stores
from flowstore.web.pages import sql as sql_page
from support.canaries import FORMS, hostile_stores
from support.cli import ended, started
from support.flows import FOREACH, flow_source
from support.hostile import UNSAFE
from support.processes import AS_NOBODY, python, told, wait_for, with_support
from support.recording import store_with
from support.stores import assert_sound, make_store, names_beside, untouched
from support.web import Browser

ENDLESS = quote("with recursive n (x) as (select 1 union all select x + 1 from n) select max(x) from n")
PAGES = (
    "/", "/runs.json", "/flows", "/flows.json", "/flow/F", "/flow/F.json", "/run/F/1", "/run/F/1.json",
    "/run/F/1?expand=body", "/code/F/1", "/task/F/1/start/1", "/task/F/1/start/1.json", "/cards/F/1", "/cards/F/1.json",
    "/card/F/1/start/1/0", "/artifact/F/1/start/1/metrics", "/artifact/F/1/start/1/metrics.json",
    "/artifact/F/1/start/1/model", "/artifact/F/1/start/1/large?page=2", "/artifact/F/1/start/1/large?download=.npy",
    "/task/F/1/start/1?log=stdout", "/compare", "/compare?run=F/1&run=F/2&all=1", "/compare.json?run=F/1&run=F/2",
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
        connecting = contextlib.closing(socket.create_connection(("127.0.0.1", self.port), timeout))
        with connecting as connection, contextlib.suppress(ConnectionError):
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
    "user@localhost": 403, "localhost@evil.example": 403, "localhost/evil": 403, "localhost#": 403,
    "localhost,evil": 403, "localhost evil": 403, "[localhost]": 403,
    "[127.0.0.1": 403, "localhost:-1": 403, "localhost:1:2": 403,
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
        "/run//F/1", "/%2e%2e%2frun/F/1", "/run/F/1;x=y", "/run/F/1%0d%0aSet-Cookie:%20a=b",
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
        "since=9999-99-99", "user=%ff", "tag=%ed%a0%80", "columns=" + "%22" * 500, "columns=a'b%22;--",
        "status=nothing", "over=%00", "plot=%00&over=a", "flow=" + "%2e%2e%2f" * 50, "namespace=%00",
        "text=%25%25%25", "version=%00", "&".join(f"columns=c{n}" for n in range(900)), "&".join(["run=F/1"] * 5000),
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
        elif "/card/" not in url and not url.endswith(".npy") and (found := UNSAFE.search(answer.text)):
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


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_pages_of_a_stranger_s_file(tmp_path, stranger, form):
    """A pickle, tricks, nothing or a number in some columns: each page is shown or says what is wrong; nothing runs."""
    stranger()
    assert_silent(tmp_path, form, every=12)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("form", FORMS)
def test_pages_of_all_strangers_files(tmp_path, stranger, form):
    """The same with every column."""
    stranger()
    assert_silent(tmp_path, form, every=1)


# --- a file that changes under the page


def test_a_store_that_another_process_locks(browse, path, monkeypatch):
    """All who ask meanwhile hear soon, and together, that it is locked; afterwards the page is there again."""
    monkeypatch.setattr(web_stores, "BUSY_S", 0.2)
    browser = browse(make_store(path))
    browser.page("/")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("begin exclusive")
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: browser.stranger.get("/", headers=browser.headers), range(20)))
        assert {answer.status_code for answer in answers} == {503}
        assert "stayed locked" in answers[0].text
        assert "stayed locked" in browser.json("/runs.json", 503)["error"]
        assert time.monotonic() - began < 5
        other.execute("rollback")
    wait_for(lambda: browser.stranger.get("/", headers=browser.headers).status_code == 200)
    assert_one_file(browser)


@pytest.mark.parametrize("size", [0, 50, 5000, 20_000])
def test_a_store_that_is_cut_off(browse, path, size):
    """A file that ends early is named on each page, and nothing is written to it."""
    browser = browse(make_store(path))
    browser.page("/")
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(size)
    browser.stores.close_idle(0.0)
    kept = path.read_bytes()
    for url in ("/", "/run/F/1", "/runs.json", "/run/F/1.json", "/sql?q=select+*+from+run_summary"):
        answer = browser.stranger.get(url, headers=browser.headers)
        assert answer.status_code == 503 or (answer.status_code < 500 and "damaged" in answer.text), answer.text[-500:]
    assert path.read_bytes() == kept
    path.write_bytes(data)
    browser.stores.close_idle(0.0)
    assert "F/1" in browser.page("/")


@pytest.mark.parametrize("instead", ["folder", "link to nothing", "pipe", "another database", "text"])
def test_a_store_that_becomes_something_else(browse, path, instead):
    """Whatever lies at its path is named; nothing waits, and nothing of it is shown."""
    browser = browse(make_store(path))
    browser.page("/")
    path.unlink()
    if instead == "folder":
        path.mkdir()
    elif instead == "link to nothing":
        path.symlink_to("nowhere")
    elif instead == "pipe":
        os.mkfifo(path)
    elif instead == "another database":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("create table secret as select 'hidden' as x")
    else:
        path.write_text("hidden" * 5000)
    for url in ("/", "/run/F/1", "/runs.json", "/sql?q=select+*+from+secret"):
        answer = browser.stranger.get(url, headers=browser.headers)
        assert answer.status_code == 503, (url, answer.text[-500:])
        assert "hidden" not in answer.text
    browser.send("/run/F/1/tags", 503, add="x")


def test_a_folder_that_goes_away(browse, tmp_path):
    """A store whose folder was moved is missing, and shown again when that comes back."""
    (tmp_path / "inner").mkdir()
    path = make_store(tmp_path / "inner" / "flowstore.db")
    browser = browse(path)
    browser.page("/")
    path.parent.rename(tmp_path / "moved")
    assert "There is no store at" in browser.page("/", 503)
    browser.send("/run/F/1/note", 503, note="lost")
    (tmp_path / "moved").rename(path.parent)
    assert "F/1" in browser.page("/")
    assert browser.json("/run/F/1.json")["note"] is None


def assert_one_file(browser):
    """Afterwards the store is sound, and lies there alone."""
    browser.stores.close()
    assert names_beside(browser.path) == [browser.path.name]
    assert_sound(browser.path)


# --- files that are only looked at


READING = f"""
import sys
from support.web import Browser
URLS = [
    "/", "/run/F/1", "/task/F/1/end/1", "/sql?q=select+*+from+run_summary", "/search?q=blue", "/runs.json",
    "/nothing",
]
def look(path):
    browser = Browser(path)
    texts = [browser.stranger.get(url, headers=browser.headers).text for url in URLS]
    codes = [browser.stranger.post(f"/run/F/1/{{name}}", data={{"add": "x"}}, headers={{**browser.headers,
             "origin": "http://127.0.0.1:8765"}}).status_code for name in ("tags", "note")]
    browser.close()
    return texts, codes
look(sys.argv[2])  # all that it uses is imported before it may no longer be read
{AS_NOBODY}
os.chdir("/")
os.environ["FLOWSTORE_HOME"] = "/nonexistent"
texts, codes = look(sys.argv[1])
assert codes == [403, 403], codes
assert not any('method="post"' in text for text in texts)
assert all("F/1" in text for text in texts[:-1]), texts
print("read")
"""


@pytest.mark.long
@pytest.mark.parametrize("header", ["rollback", "log"])
@pytest.mark.parametrize(("file_mode", "folder_mode"), [(0o444, 0o777), (0o666, 0o555), (0o444, 0o555)])
def test_a_file_that_cannot_be_written(open_folder, tmp_path, file_mode, folder_mode, header):
    """A colleague's file, or one on a medium that can't be written: all pages, no form, and not one byte beside it."""
    path = make_store(open_folder / "flowstore.db")
    if header == "log":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("pragma journal_mode = wal")
    path.chmod(file_mode)
    open_folder.chmod(folder_mode)
    with untouched(open_folder):
        env = with_support({**os.environ, "FLOWSTORE_HOME": str(tmp_path)})
        assert told(python(READING, path, make_store(tmp_path / "own.db"), env=env)) == "read\n"


def test_a_stranger_s_file_is_only_looked_at(browse, path, stranger):
    """So it is without --read-only, too, and by a form that was open before."""
    make_store(path)
    stranger()
    browser = browse(path)
    assert 'method="post"' not in browser.page("/run/F/1")
    for name, value in (("tags", {"add": "mine"}), ("note", {"note": "mine"})):
        assert "was started with --read-only" in browser.send(f"/run/F/1/{name}", 403, **value).text
    assert browser.json("/run/F/1.json")["tags"] == ["blue"]


def test_read_only_changes_nothing(browse, path):
    """Not a byte of one's own file, whatever is asked and sent."""
    make_store(path)
    with untouched(path.parent):
        browser = browse(path, read_only=True)
        assert 'method="post"' not in browser.page("/run/F/1")
        for url in PAGES:
            browser.stranger.get(url, headers=browser.headers)
        for name in ("tags", "note"):
            browser.send(f"/run/F/1/{name}", 403, add="x", note="x")
        browser.close()


# --- too much at once


def test_questions_without_end(browse, path, monkeypatch):
    """Many at once end at their deadline, one after the other, while other pages are answered at once."""
    monkeypatch.setattr(sql_page, "DEADLINE_S", 0.5)
    browser = browse(make_store(path))
    browser.page("/sql?q=select+1")
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        endless = [
            pool.submit(browser.stranger.get, f"/sql?q={ENDLESS}&n={n}", headers=browser.headers) for n in range(9)
        ]
        wait_for(lambda: browser.stores._busy)
        began = time.monotonic()
        assert set(pool.map(lambda url: browser.ask(url).status_code, ["/", "/run/F/1", "/docs", "/runs.json"])) == {
            200
        }
        took = time.monotonic() - began
        assert not all(question.done() for question in endless)
        assert took < 1.5
        assert all("took more than" in question.result().text for question in endless)
    assert browser.json("/sql.json?q=select+1+as+x")["rows"] == [{"x": 1}]


@pytest.mark.long
def test_downloads_that_nobody_reads(path):
    """Browsers that stop in the middle of a file keep nobody from the pages, and the end from nothing."""
    store_with(path, {"text": "x" * 30_000_000})
    with serving(path) as wire, contextlib.ExitStack() as stack:
        for _ in range(20):
            paused = stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", wire.port), 20)))
            request = "GET /artifact/F/1/start/1/text?download=.txt HTTP/1.1\r\nHost: localhost\r\n"
            paused.sendall(f"{request}Authorization: Bearer {wire.token}\r\n\r\n".encode())
            assert paused.recv(12) == b"HTTP/1.1 200"
        assert wire.ask("/", timeout=10)[0] == wire.ask("/run/F/1", timeout=10)[0] == 200
        assert_ends(wire, path, signal.SIGINT)


class Crowd:
    """Clients that ask for pages again and again; their answers that were no pages."""

    def __init__(self, wire, urls, clients=50):
        self.wrong, self.count, self._over = [], 0, threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(wire, urls[n % len(urls)]), daemon=True) for n in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, wire, url):
        while not self._over.is_set():
            try:
                code, text = wire.ask(url, timeout=60)
            except OSError:
                code, text = 0, b""
            self.count += 1
            if code != 200 and not self._over.is_set():
                self.wrong.append((url, code, text[-300:]))

    def leave(self):
        """Ask no more; whatever is answered from here on does not count."""
        self._over.set()

    def wait(self):
        """Wait until all have had their last answer."""
        self.leave()
        for thread in self._threads:
            thread.join(60)


def assert_ends(wire, path, number):
    """A signal ends the server at once and without a word, and leaves one sound file."""
    began = time.monotonic()
    wire.process.send_signal(number)
    result = ended(wire.process, timeout=30)
    assert time.monotonic() - began < 5
    assert (result.code, result.stderr) == (128 + number, "")
    assert names_beside(path) == [path.name]
    assert_sound(path)


WATCHED = (
    "/",
    "/run/F/latest",
    "/runs.json",
    "/flow/F",
    "/run/F/1.json",
    "/task/F/1/start/1",
    "/compare?run=F/1&run=F/1",
)


@pytest.mark.long
def test_fifty_browsers_while_runs_write(flow):
    """All get whole pages, runs go on, nothing is locked or lost; afterwards there is one file."""
    script = flow(flow_source(FOREACH, start="self.xs = [*range(30)]"))
    script("run")
    with serving(script.db) as wire:
        crowd = Crowd(wire, WATCHED)
        for _ in range(2):
            assert "locked" not in script("run", timeout=200).stderr
        crowd.wait()
        assert crowd.wrong == []
        assert crowd.count >= 50
        assert_ends(wire, script.db, signal.SIGINT)
    assert script.sql("select status, count(*) from run_summary group by status") == [("successful", 3)]
    assert script.counts(3)["body"] == 30


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end_under_load(path, number):
    """With fifty browsers that ask, some of them for ever, a signal ends it at once and leaves one file."""
    make_store(path, runs=5)
    with serving(path) as wire:
        assert wire.ask("/sql?q=select+1")[0] == 200
        crowd = Crowd(wire, [*WATCHED, f"/sql?q={ENDLESS}"])
        wait_for(lambda: crowd.count > 60)
        crowd.leave()
        assert_ends(wire, path, number)
        crowd.wait()


@pytest.mark.long
def test_the_end_while_the_file_is_locked(path):
    """Another process that holds the file does not keep the server."""
    make_store(path)
    with serving(path) as wire:
        assert wire.ask()[0] == 200
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("begin exclusive")
            crowd = Crowd(wire, ["/"], clients=10)
            time.sleep(0.5)
            crowd.leave()
            began = time.monotonic()
            wire.process.send_signal(signal.SIGINT)
            assert ended(wire.process, timeout=30).code == 130
            assert time.monotonic() - began < 8
            crowd.wait()
    assert_sound(path)


@pytest.mark.long
def test_a_server_that_is_killed(flow):
    """Under load, while a run writes: the run goes on, the file opens soundly, and another server shows it."""
    script = flow(flow_source(FOREACH, start="self.xs = [*range(30)]"))
    script("run")
    with serving(script.db) as wire:
        crowd = Crowd(wire, WATCHED, clients=20)
        with script.start("run") as run:
            wait_for(lambda: script.sql("select count(*) from runs") == [2], 60)
            wire.process.kill()
            wire.process.wait()
            crowd.wait()
            assert ended(run).code == 0
    assert_sound(script.db)
    with serving(script.db) as wire:
        assert wire.ask("/run/F/2")[0] == 200
        wire.process.kill()
        wire.process.wait()
    script.flowstore("check", "--deep")
