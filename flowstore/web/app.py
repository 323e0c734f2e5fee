"""The application: routes, and how a page function becomes a response.

`create_app` returns an ASGI application for one store. Each route of `pages.ROUTES` leads to a function that returns a
page object; here that becomes HTML or, where the path ends with `.json` and nothing stored is called that, JSON. Live
pages ask for themselves again with the version that they show, and are answered 204 while nothing changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import importlib
import re
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote

import attrs
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from flowstore.errors import (
    FlowstoreError,
    InvalidPathspec,
    NamespaceMismatch,
    NotAStore,
    NotFound,
    StoreCorrupt,
    StoreNotFound,
    StoreTooNew,
    TaggingError,
    UntrustedArtifact,
)
from flowstore.sqlite.clear_errors import StoreLocked
from flowstore.text import escaped
from flowstore.web import templating
from flowstore.web.pages import QUESTIONS, ROUTES, Download, NotEditable, Page, Query, Redirect, View
from flowstore.web.security import Access, Guard
from flowstore.web.stores import Stopped, Stores

JSON = ".json"
VERSION = "x-flowstore-version"  # of what a live page shows
_LARGEST_FORM = 1 << 20  # bytes: a note has at most 10,000 characters
_MOST_FIELDS = 1000
_TICK_S = 5  # how often a page on which something runs is made again although the file did not change
_MOST_QUESTIONS = 3  # answered at once, which leaves turns and threads for all other pages
_KEPT = "public, max-age=31536000, immutable"
_STATUS: tuple[tuple[type[FlowstoreError], int], ...] = (
    (NotFound, 404),
    (InvalidPathspec, 404),
    (NamespaceMismatch, 404),
    (NotEditable, 403),
    (UntrustedArtifact, 403),
    (TaggingError, 400),
    (StoreNotFound, 503),
    (NotAStore, 503),
    (StoreCorrupt, 503),
    (StoreTooNew, 503),
    (StoreLocked, 503),
    (Stopped, 503),
)
_TITLES = {
    400: "This cannot be done",
    403: "This is not allowed",
    404: "Not found",
    405: "Not possible here",
    413: "Too much text",
    500: "This page failed",
    503: "The store cannot be read",
}
Answer = Page | Redirect | Download
Function = Callable[..., Answer]


def create_app(stores: Stores, access: Access) -> Starlette:
    """Return the application that shows a store.

    Args:
        stores: the connections to it.
        access: who may ask.

    Example:
        from starlette.testclient import TestClient

        stores = Stores("flowstore.db")
        access = Access.to(stores.path, 8765)
        with TestClient(create_app(stores, access), base_url="http://127.0.0.1") as client:
            client.get("/", params={"token": access.token})
    """
    answering = _Answering(stores)
    routes = [Route("/static/{name}", _static)]
    for route, functions in _by_path().items():
        endpoint = functools.partial(answering.answer, functions)
        routes.append(Route(route, endpoint, methods=[*functions]))
        routes[-1].path_regex = re.compile(routes[-1].path_regex.pattern, re.DOTALL)  # a name may hold ends of lines
        if "{" not in route and route != "/":  # elsewhere a stored name may end so
            routes.append(Route(route + JSON, endpoint, methods=["GET"]))
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={HTTPException: answering.failure, Exception: answering.failure},
        lifespan=functools.partial(_lifespan, stores),
    )


def _by_path() -> dict[str, dict[str, str]]:
    """Return the functions of each path, by method."""
    paths: dict[str, dict[str, str]] = {}
    for path, method, function in ROUTES:
        paths.setdefault(path, {})[method] = function
    return paths


@contextlib.asynccontextmanager
async def _lifespan(stores: Stores, _app: Starlette) -> AsyncIterator[None]:
    async def close_idle() -> None:
        while True:
            await asyncio.sleep(1.0)
            await run_in_threadpool(stores.close_idle)

    closing = asyncio.create_task(close_idle())
    try:
        yield
    finally:
        closing.cancel()
        await run_in_threadpool(stores.close)


async def _static(request: Request) -> Response:
    file = templating.static_files().get(request.path_params["name"])
    if file is None:
        raise HTTPException(404)
    return Response(file[1], media_type=file[0], headers={"cache-control": _KEPT})


@functools.cache
def _function(name: str) -> Function:
    module, _, function = name.partition(":")
    page: Function = getattr(importlib.import_module(module), function)
    return page


@attrs.frozen
class _Request:
    """A request: what it asks for, and in which form."""

    function: Function
    names: Mapping[str, str]
    path: str
    query: Query
    form: Mapping[str, str]
    version: str  # of what a live page shows already
    as_json: bool

    def without_suffix(self) -> _Request | None:
        """Return the request for the JSON of what the path names without the suffix; `None` if it has none."""
        if self.as_json or self.form or not self.path.endswith(JSON):
            return None
        *_, last = self.names
        names = {**self.names, last: self.names[last].removesuffix(JSON)}
        return attrs.evolve(self, names=names, path=self.path.removesuffix(JSON), as_json=True)


class _Answering:
    """Makes responses of what page functions return."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._patience = asyncio.Semaphore(_MOST_QUESTIONS)

    async def answer(self, functions: Mapping[str, str], request: Request) -> Response:
        """Return the response to a request that belongs to a route."""
        form = await _form(request) if request.method == "POST" else {}
        path = str(request.scope["path"])  # `request.url` of older versions takes an encoded "?" for the end of it
        fixed = not request.path_params and path.endswith(JSON)
        method = "GET" if request.method == "HEAD" else request.method
        wanted = _Request(
            function=_function(functions[method]),
            names=request.path_params,
            path=path.removesuffix(JSON) if fixed else path,
            query=_query(request.scope["query_string"]),
            form=form,
            version=request.headers.get(VERSION, ""),
            as_json=fixed,
        )
        async with self._patience if wanted.path in QUESTIONS else contextlib.nullcontext():  # who waits has no thread
            return await run_in_threadpool(self._answer, wanted)

    def _answer(self, wanted: _Request) -> Response:
        try:
            version = self._stores.version() if not wanted.form and not wanted.as_json else ""
            if wanted.version and wanted.version.rpartition("-")[0] in {version, f"{version}-{_tick()}"}:
                return Response(status_code=204)
            return self._lent(wanted, version)
        except Exception as error:  # whatever it is, the answer is a page
            without = wanted.without_suffix() if isinstance(error, (NotFound, InvalidPathspec)) else None
            return self._failed(error, as_json=wanted.as_json) if without is None else self._answer(without)

    def _lent(self, wanted: _Request, version: str) -> Response:
        """Return the response of a page function; the store is lent until all of a download is sent."""
        with self._stores.turns, contextlib.ExitStack() as stack:
            store, editable = stack.enter_context(self._stores.lease())
            view = View(store, wanted.path, wanted.query, editable, wanted.form)
            answer = wanted.function(view, **wanted.names)
            if isinstance(answer, Redirect):
                return RedirectResponse(answer.url, 303)
            if isinstance(answer, Download):
                return _download(answer, stack.pop_all())
            if wanted.as_json:
                return _json(answer.json())
            return self._page(answer, view, version, wanted.version)

    def _page(self, page: Page, view: View, version: str, known: str) -> Response:
        html = self._render(page.template, page.title, view.path, editable=view.editable, view=view, **page.data)
        ticking = f"{version}-{_tick()}" if page.runs_now else version
        shown = hashlib.sha256(html.encode()).hexdigest()[:16]
        headers = {VERSION: f"{ticking}-{shown}"}
        return (
            Response(status_code=204, headers=headers)
            if known.endswith(f"-{shown}")
            else HTMLResponse(html, headers=headers)
        )

    def _render(self, template: str, title: str, path: str, **data: Any) -> str:
        name = self._stores.path.name
        return templating.environment().get_template(template).render(title=title, path=path, store_name=name, **data)

    async def failure(self, request: Request, error: Exception) -> Response:
        """Return the page of an error outside of page functions, such as a path that is none of ours."""
        return self._failed(error, as_json=str(request.scope["path"]).endswith(JSON))

    def _failed(self, error: Exception, *, as_json: bool) -> Response:
        code, text = _explained(error)
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        if as_json:
            return _json({"error": text}, code, headers)
        title = _TITLES.get(code, "This cannot be done")
        html = self._render("error.html", title, "", message=text, code=code)
        return HTMLResponse(html, code, headers)


def _tick() -> int:
    return int(time.monotonic() / _TICK_S)


def _explained(error: Exception) -> tuple[int, str]:
    """Return the code of an error, and its message for people."""
    if isinstance(error, FlowstoreError):
        return next((code for kind, code in _STATUS if isinstance(error, kind)), 400), str(error)
    if isinstance(error, HTTPException):
        texts = {404: "There is no page at this address.", 405: "This address does not take such a request."}
        return error.status_code, texts.get(error.status_code, str(error.detail))
    if isinstance(error, OSError):
        return 503, f"The store cannot be read: {error.strerror or error}."
    traceback.print_exception(error)
    return 500, f"{type(error).__name__}: {error}. The terminal of flowstore ui shows where it happened."


def _json(value: Any, code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    text = escaped(templating.dumps(value))  # terminals act on some of what JSON may hold as it is
    return Response(text, code, dict(headers or {}), "application/json")


def _query(text: bytes) -> Query:
    return Query(tuple(_fields(text.decode("latin-1"))))


def _fields(text: str) -> list[tuple[str, str]]:
    """Return the names and values of a query or of a form."""
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise HTTPException(400, f"An address or a form has at most {_MOST_FIELDS:,} fields.") from error


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form that a browser sent."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_FORM:
            raise HTTPException(413, "A form takes at most 1 MiB of text, and this is more.")
    pairs = _fields(body.decode("utf-8", "replace"))
    return {"": "", **dict(pairs)}  # never empty, so that a form without fields is one


def _download(download: Download, lease: contextlib.ExitStack) -> Response:
    def chunks() -> Iterator[bytes]:
        with lease:
            yield from download.chunks

    kind = "inline" if download.inline else "attachment"
    disposition = f"{kind}; filename*=UTF-8''{quote(download.name, safe='')}"
    headers = {"content-disposition": disposition, **download.headers}
    return StreamingResponse(chunks(), media_type=download.type, headers=headers)
