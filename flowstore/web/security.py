"""Who may ask, and what a browser may do with the answer, as middleware that knows nothing of pages.

Loopback is not private: other users of the machine reach it, and any web page can make a browser send requests to it.
So three questions come before every page: does the request name a host of ours (else a stranger's domain was pointed
at us), does it bring the token, and, where it changes something, does it come from one of our own pages.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, urlencode

import attrs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PUBLIC = "/static/"  # our own style sheets and script, which hold nothing of the store
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with `no-referrer`, a form without JavaScript would send "Origin: null"
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_READING = frozenset({"GET", "HEAD"})


@attrs.frozen
class Access:
    """Who may ask.

    Attributes:
        token: what a browser must bring, once in the address and then as a cookie.
        cookie: the cookie's name. Browsers share cookies between all ports of a host, so it names port and store.
        hosts: names of this machine, besides those of loopback.
    """

    token: str
    cookie: str
    hosts: frozenset[str]

    @classmethod
    def to(cls, path: Path, port: int, hosts: Collection[str] = (), token: str = "") -> Access:
        """Return the access to a store that is served on a port, with a new token unless one is given."""
        store = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:12]
        names = frozenset(name.lower().strip("[]") for name in hosts)
        return cls(token or secrets.token_urlsafe(24), f"flowstore-{port}-{store}", names)

    def allows_host(self, host: str) -> bool:
        """Return whether a request's `Host` names this machine, whatever the port: tunnels and editors forward."""
        name = _name_of(host)
        return name == "localhost" or name in self.hosts or _is_loopback(name)

    def is_token(self, text: str) -> bool:
        """Return whether a text is the token, in a time that says nothing about it."""
        return secrets.compare_digest(text.encode("utf-8", "replace"), self.token.encode())


def _name_of(host: str) -> str:
    """Return the name in a `Host` header, without the port and in lower case; nothing for a malformed one.

    >>> _name_of("LOCALHOST:80"), _name_of("[::1]:80"), _name_of("a:b:c"), _name_of("localhost:x")
    ('localhost', '::1', '', '')
    """
    if host.startswith("["):
        name, _, port = host[1:].partition("]:") if "]:" in host else (host[1:].removesuffix("]"), "", "")
        name = name if "]" in host and ":" in name else ""
    else:
        name, _, port = host.partition(":")
    return name.lower() if not port or (port.isascii() and port.isdecimal()) else ""


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """Middleware that answers 403 to what may not be asked, and adds the headers that bind browsers.

    Args:
        app: what answers the rest.
        access: who may ask.
    """

    def __init__(self, app: App, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            guarded = _with_headers(send)
            answer = self._answer(scope)
            await (self._app(scope, receive, guarded) if answer is None else answer.send(guarded))

    def _answer(self, scope: Scope) -> _Answer | None:
        """Return what is answered instead of a page; `None` where the page may be seen."""
        hosts = _header(scope, b"host")
        if len(hosts) != 1 or not self._access.allows_host(hosts[0]):
            return _refusal(
                "The name in this address is not one of this machine. To allow it: flowstore ui --allow-host NAME"
            )
        if scope["path"].startswith(PUBLIC) and scope["method"] in _READING:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if given and scope["method"] in _READING and self._access.is_token(given[-1]):
            return self._without_token(scope, [(name, value) for name, value in query if name != "token"])
        if not self._has_token(scope):
            return _refusal("This page needs a token. Open the address that flowstore ui printed.")
        if scope["method"] not in _READING and not _is_from_us(_header(scope, b"origin"), hosts[0]):
            return _refusal("This change came from somewhere else. Open the page, and make the change there.")
        return None

    def _has_token(self, scope: Scope) -> bool:
        bearers = [text.removeprefix("Bearer ") for text in _header(scope, b"authorization")]
        return any(self._access.is_token(text) for text in (*bearers, *_cookies(scope, self._access.cookie)))

    def _without_token(self, scope: Scope, query: list[tuple[str, str]]) -> _Answer:
        """Return the way to the same page without the token, which is in a cookie from then on."""
        path = "/" + scope.get("raw_path", scope["path"].encode()).decode("latin-1").partition("?")[0].lstrip("/")
        target = f"{path}?{urlencode(query)}" if query else path
        cookie = f"{self._access.cookie}={self._access.token}; Path=/; HttpOnly; SameSite=Strict"
        headers = {"set-cookie": cookie}
        if _header(scope, b"sec-fetch-site") in ([], ["none"], ["same-origin"]):
            return _Answer(303, "", {**headers, "location": target})
        # After a link of another site, a redirect would be followed without the strict cookie. A page of ours that
        # leads on is the start of a new journey, and the cookie comes along.
        return _Answer(200, "Opening the page …", {**headers, "refresh": f"0;url={target}"})


@attrs.frozen
class _Answer:
    """A whole response: the code, one sentence to show, and headers."""

    code: int
    text: str
    headers: Mapping[str, str] = MappingProxyType({})

    async def send(self, send: Send) -> None:
        body = _PAGE.format(text=self.text).encode() if self.text else b""
        headers = {"content-type": "text/html; charset=utf-8", "content-length": str(len(body)), **self.headers}
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.code, "headers": pairs})
        await send({"type": "http.response.body", "body": body})


_PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>flowstore</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
    '<link rel="stylesheet" href="/static/look.css"><link rel="stylesheet" href="/static/page.css"></head>'
    '<body><main><h1>flowstore</h1><p class="error">{text}</p></main></body></html>'
)


def _refusal(text: str) -> _Answer:
    return _Answer(403, text)


def _header(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _cookies(scope: Scope, name: str) -> list[str]:
    cookies: list[str] = []
    for part in ";".join(_header(scope, b"cookie")).split(";"):
        try:
            cookies += [morsel.value for key, morsel in SimpleCookie(part.strip()).items() if key == name]
        except CookieError:  # of another program on this host
            continue
    return cookies


def _is_from_us(origins: list[str], host: str) -> bool:
    """Return whether a change comes from a page of the host that it is sent to; a proxy may speak TLS before us."""
    return len(origins) == 1 and origins[0].lower() in {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}


def _with_headers(send: Send) -> Send:
    """Return a `send` that adds the headers above to a response, but for those that it has set itself."""

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower() for name, _ in message.get("headers", [])}
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in own]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return add
