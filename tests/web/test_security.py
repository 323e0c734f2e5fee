"""Who may ask: the host, the token, and pages of our own; and the headers that bind browsers."""

from __future__ import annotations

import pytest

from support.stores import make_store


@pytest.fixture
def browser(browse, path):
    """A browser at a store with a run."""
    return browse(make_store(path))


def code(browser, *, method="GET", url="/", **headers):
    """How a request of somebody else is answered, with `token` of theirs as a cookie."""
    token = headers.pop("token", browser.token)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        headers["cookie"] = f"{browser.access.cookie}={token}".encode("latin-1")
    return browser.stranger.request(method, url, headers=headers).status_code


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:1", "LOCALHOST", "[::1]:8765", "127.8.8.8", "flows.example:80"]
)
def test_hosts_of_this_machine(browser, host):
    """Loopback and allowed names are answered, at whatever port: tunnels and editors forward."""
    assert code(browser, host=host) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "localhost:x", "a:b:c", "", "[::1"]
)
def test_other_hosts(browser, host):
    """A name that was pointed at this machine is refused, with the token too."""
    assert code(browser, host=host) == 403


@pytest.mark.parametrize("token", [None, "", "wrong", "é"])
def test_without_the_token(browser, token):
    """Pages, data and errors need the token."""
    for url in ("/", "/runs.json", "/nothing", "/run/F/1"):
        assert code(browser, url=url, token=token) == 403


def test_the_token_moves_from_the_address_into_a_cookie(browser):
    """The address loses its token and keeps all else; the cookie names port and store, and no script reads it."""
    answer = browser.stranger.get(f"/run/F/1?step=a%20b&token={browser.token}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/run/F/1?step=a+b")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"flowstore-8765-{browser.access.cookie[-12:]}={browser.token};")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    browser.stranger.cookies.clear()
    assert browser.stranger.get("/?token=wrong").status_code == 403


def test_the_token_from_a_link_elsewhere(browser):
    """After a link on another site the cookie is strict, so a page of ours leads on."""
    answer = browser.stranger.get(f"/runs?token={browser.token}", headers={"sec-fetch-site": "cross-site"})
    assert (answer.status_code, answer.headers["refresh"]) == (200, "0;url=/runs")
    assert browser.token not in answer.text


def test_the_way_on_stays_here(browser):
    """No address makes the redirect lead to another host."""
    answer = browser.stranger.get(f"//evil.example/?token={browser.token}")
    assert answer.headers.get("location", "/").startswith("/")
    assert not answer.headers.get("location", "/").startswith("//")


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "http://localhost:8765"])
def test_changes_from_elsewhere(browser, origin):
    """A change must come from a page of the host that it is sent to."""
    browser.send("/run/F/1/tags", 403, origin=origin, add="evil")
    assert browser.json("/run/F/1.json")["tags"] == ["blue"]


def test_changes_by_get(browser):
    """GET changes nothing."""
    assert browser.ask("/run/F/1/tags?add=evil", 405).headers["allow"] == "POST"


def test_headers(browser):
    """Every answer says what a browser may do with it; only pages of the store are not kept."""
    for url, expected in (("/", 200), ("/nothing", 404), ("/runs.json", 200)):
        headers = browser.ask(url, expected).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
    kept = browser.stranger.get("/static/page.css")
    assert "immutable" in kept.headers["cache-control"]
    assert code(browser, url="/static/page.css", token=None) == 200
    assert code(browser, url="/static/../app.py") == code(browser, url="/static/%2e%2e%2fapp.py") == 404


def test_programs_bring_the_token_themselves(browser):
    """A program sends the token as a header, for reading and, with an origin, for changes."""
    bearer = {"authorization": f"Bearer {browser.token}"}
    assert browser.stranger.get("/runs.json", headers=bearer).json()["runs"]
    assert browser.stranger.get("/runs.json", headers={"authorization": "Bearer wrong"}).status_code == 403
    assert browser.stranger.post("/run/F/1/tags", data={"add": "x"}, headers=bearer).status_code == 403
