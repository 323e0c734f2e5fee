"""Runs as one HTML file, which needs nothing else: `flowstore export --html`.

Each run is its page, made by the same function and template, followed by what other pages would show: every task with
its attempts, what they printed, pictures and cards, and the code. The file has no script and loads nothing, and a
Content-Security-Policy in it says so. It is written piece by piece, so that logs of any length fit.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape, unescape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit

import attrs

from flowstore._version import __version__
from flowstore.client import Run, rows
from flowstore.client.code import Code
from flowstore.client.listings import table_of_tasks
from flowstore.client.rows import TaskRow
from flowstore.client.store import seen
from flowstore.client.task import last_state
from flowstore.errors import FlowstoreError, NotFound
from flowstore.sqlite import outputs
from flowstore.sqlite.database import Database, Row
from flowstore.store import cards, log_chunks, queries, steps
from flowstore.store.blobs import Blob
from flowstore.store.pictures import find_picture
from flowstore.text import safe
from flowstore.transfer.selection import Selection, run_ids
from flowstore.web import templating
from flowstore.web.pages import View
from flowstore.web.pages import run as run_page

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_PAGE = 200  # tasks that are read at a time
_LARGEST_SOURCE = 1_000_000  # bytes of a file of code
_LONGEST_LINE = 1 << 20  # characters that are held until a line of a log ends
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@attrs.frozen
class Saved:
    """The file that was written, its size, and how many runs it has."""

    path: Path
    size_bytes: int
    runs: int


def save(store: Database, out: Path, selection: Selection, *, logs: bool = True, force: bool = False) -> Saved:
    """Write runs to an HTML file.

    Args:
        store: the store that has them.
        out: the file.
        selection: which runs.
        logs: whether what tasks printed is in it.
        force: replace a file that is there; a store is never replaced.

    Raises:
        FlowstoreError: something is there, or it can't be written.
        NotFound: nothing is selected.
        StoreCorrupt: the store is damaged.
    """
    _check_target(out, force=force)
    ids = run_ids(store, selection)
    if not ids:
        raise NotFound("No run is selected, so nothing was exported.")
    environment = _environment()
    try:
        with outputs.replaced(out) as path, path.open("w", encoding="utf-8") as file:
            file.writelines(_pieces(environment, store, ids, logs=logs))
    except OSError as error:
        raise FlowstoreError(f"{out} cannot be written: {error.strerror or error}.") from error
    return Saved(out, out.stat().st_size, len(ids))


def _check_target(out: Path, *, force: bool) -> None:
    if not out.parent.is_dir():
        raise FlowstoreError(f"{out} cannot be written: there is no folder {out.parent}.")
    if os.path.lexists(out) and not force:
        raise FlowstoreError(f"{out} is there already. Choose another file, or replace that one with --force.")
    outputs.check(out)


def _environment() -> Environment:
    """Return the templates as a file needs them: times are exact, since nobody knows when it is read."""
    try:
        shared = templating.environment()
    except ImportError as error:
        raise FlowstoreError(f"export --html needs jinja2, and {error.name} is missing: pip install jinja2") from error
    environment = shared.overlay()
    environment.filters = {**shared.filters, "moment": _exactly}
    return environment


def _exactly(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _pieces(environment: Environment, store: Database, ids: Sequence[int], *, logs: bool) -> Iterator[str]:
    runs = queries.runs_by_id(store, ids)
    addresses = [f"{runs[run_id]['flow']}/{run_id}" for run_id in ids if run_id in runs]
    written = (_Written(environment, store, address, addresses, logs=logs) for address in addresses)
    css = "".join(text.decode() for kind, text in templating.static_files().values() if kind == "text/css")
    listed = [seen(store, None).find(address, Run) for address in addresses]
    return environment.get_template("saved.html").generate(
        policy=_POLICY,
        css=_markup(css),
        runs=zip(map(_anchor, addresses), rows.of_runs(listed), written, strict=True),
        index=list(zip(map(_anchor, addresses), rows.of_runs(listed), strict=True)) if len(addresses) > 1 else [],
        title=addresses[0] if len(addresses) == 1 else f"{len(addresses):,} runs",
        store_name=store.path.name,
        version=__version__,
        now=datetime.now(UTC),
    )


def _markup(html: str) -> Markup:
    from markupsafe import Markup

    return Markup(html)  # noqa: S704  # made here or by a template, and escaped there


def _anchor(address: str) -> str:
    """Return the id of a run in the file.

    >>> _anchor("F/5")
    'r5'
    """
    return f"r{address.rpartition('/')[2]}"


# --- what the template reads: everything but the page of the run is read while it is written


@attrs.frozen
class SavedArtifact:
    """An artifact that an attempt set: its description, and the picture that was kept, as a data URI."""

    name: str
    type: str
    size_bytes: int
    preview: str
    picture: str | None


@attrs.frozen
class SavedCard:
    """A card: its name, and its page as the text of an attribute; why it cannot be shown, where it cannot."""

    name: str
    source: Markup | None
    problem: str = ""
    has_script: bool = False


@attrs.frozen
class SavedAttempt:
    """An attempt of a task, with what it printed as pairs of a stream and text, and its cards."""

    number: int
    status: str
    duration_s: float | None
    traceback: str
    artifacts: list[SavedArtifact]
    log: Iterable[tuple[str, str]]
    cards: list[SavedCard]


@attrs.frozen
class SavedTask:
    """A task, with its attempts."""

    anchor: str
    row: TaskRow
    error: str | None
    attempts: list[SavedAttempt]


@attrs.frozen
class SavedGroup:
    """Tasks of a step that are folded together, where there are too many for a browser; else without a title."""

    title: str
    tasks: Iterable[SavedTask]


@attrs.frozen
class SavedStep:
    """A step, with its tasks: those first that did not succeed."""

    anchor: str
    name: str
    counts: dict[str, int]
    groups: Iterable[SavedGroup]


@attrs.frozen
class SavedSource:
    """A file of code, as lines with numbers; `None` where it is too large, or no text."""

    anchor: str
    name: str
    html: Markup | None


class _Written:
    """A run, as it is written."""

    def __init__(
        self, environment: Environment, store: Database, address: str, others: Sequence[str], *, logs: bool
    ) -> None:
        self._environment, self._store, self._logs = environment, store, logs
        self._address, self._others, self._prefix = address, frozenset(others), _anchor(address)
        self._run = seen(store, None).find(address, Run)
        self._row = rows.of_run(self._run)

    def page(self) -> Markup:
        """Return the page of the run, whose links lead to parts of this file or nowhere."""
        flow, run_id = self._run.path_components
        view = View(seen(self._store, None), f"/run/{self._address}")
        page = run_page.run(view, flow, run_id)
        html = self._environment.get_template(page.template).render(
            frame="fragment.html",
            saved=True,
            title=page.title,
            path="",
            store_name="",
            editable=False,
            view=view,
            **page.data,
        )
        return self._linked(html)

    def _linked(self, html: str, prefix: str = "") -> Markup:
        """Return HTML of ours with its ids and addresses changed; quotation marks in text are escaped there."""
        prefix = prefix or self._prefix
        html = re.sub(r' id="([^"]*)"', lambda match: f' id="{prefix}-{match[1]}"', html)
        return _markup(re.sub(r' href="([^"]*)"', lambda match: self._target(unescape(match[1]), prefix), html))

    def _target(self, address: str, prefix: str) -> str:
        """Return the attribute of a link: to a part of this file, or none."""
        parts = urlsplit(address)
        kind, *names = [unquote(part) for part in parts.path.strip("/").split("/")]
        query = parse_qs(parts.query)
        if not parts.path:
            step = query.get("expand", query.get("step"))
            anchor = f"{self._prefix}-step-{quote(step[-1], safe='')}" if step else f"{prefix}-{parts.fragment}"
        elif kind in {"run", "task", "artifact", "code"} and "/".join(names[:2]) in self._others:
            anchor = _anchor("/".join(names[:2]))
            if kind == "run" and "step" in query:
                anchor += f"-step-{quote(query['step'][-1], safe='')}"
            elif kind == "task":
                anchor += f"-t{quote(names[3], safe='')}"
            elif kind == "artifact":
                task_id = self._setter("/".join(names[:4]), names[4])
                if task_id is None:
                    return ""
                anchor += f"-t{task_id}"
            elif kind == "code":
                anchor += f"-file-{quote(query.get('file', [''])[-1], safe='')}"
                anchor += f"-{parts.fragment}" if parts.fragment else ""
        else:
            return ""
        return f' href="#{anchor}"'

    def _setter(self, task: str, name: str) -> int | None:
        """Return the task that set what a task has, which shows it."""
        try:
            item = seen(self._store, None).task(task)
        except FlowstoreError:  # a step whose name no flow can have makes no address
            return None
        blob = item._blobs(name).get(name)
        return None if blob is None else steps.setter_of(self._store, int(item.path_components[1]), name, blob.id)

    def steps(self) -> Iterator[SavedStep]:
        """Yield the steps that began."""
        for step in rows.of_steps(self._run, self._row.status):
            anchor = f"{self._prefix}-step-{quote(step.name, safe='')}"
            yield SavedStep(anchor, step.name, step.tasks, self._groups(step.name, step.total))

    def _groups(self, step: str, total: int) -> Iterator[SavedGroup]:
        after: str | None = ""
        shown = 0
        while after is not None:
            table = table_of_tasks(self._run, self._row, steps=[step], after=after, limit=_PAGE)
            title = f"{shown + 1:,} to {shown + len(table.rows):,}" if total > _PAGE else ""
            yield SavedGroup(title, self._details(table.rows, table.errors))
            after, shown = table.after, shown + len(table.rows)

    def _details(self, tasks: Sequence[TaskRow], errors: Sequence[str | None]) -> Iterator[SavedTask]:
        ids = [int(task.task_id) for task in tasks]
        attempts = steps.attempts_of(self._store, ids, limit=len(ids) * 1000)
        by_task = {
            task_id: list(group) for task_id, group in itertools.groupby(attempts, key=lambda row: row["task_id"])
        }
        artifacts: dict[int, list[SavedArtifact]] = {}
        for row in steps.artifacts_of(self._store, [attempt["id"] for attempt in attempts]):
            artifacts.setdefault(row["attempt_id"], []).append(self._artifact(row))
        for task, error in zip(tasks, errors, strict=True):
            of_task = [self._attempt(row, artifacts.get(row["id"], [])) for row in by_task.get(int(task.task_id), [])]
            yield SavedTask(f"{self._prefix}-t{task.task_id}", task, error, of_task)

    def _attempt(self, row: Row, artifacts: list[SavedArtifact]) -> SavedAttempt:
        dead = row["status"] == "running" and self._row.status == "dead"
        took = None if row["finished_at"] is None else (row["finished_at"] - row["started_at"]) / 1000
        log = _lines(log_chunks.read(self._store, row["log_id"])) if self._logs else ()
        traceback = "" if self._logs else row["traceback"] or ""  # the log ends with it
        with self._store.read():  # of a task that runs, each state of a card is gone with the next one
            shown = [self._card(card, row["task_id"]) for card in cards.of_attempt(self._store, row["id"])]
        status = "dead" if dead else row["status"]
        return SavedAttempt(row["number"], status, took, traceback, artifacts, log, shown)

    def _card(self, row: Row, task_id: int) -> SavedCard:
        """Return a card for a frame in which nothing runs."""
        name = " ".join(part for part in (row["type"], row["card_id"]) if part)
        try:
            html = cards.html(self._store, Blob.of(row), f"card {row['n']} of task {task_id} of {self._address}")
        except FlowstoreError as error:  # damaged, or left out of this file: all else is worth seeing
            return SavedCard(name, None, str(error))
        return SavedCard(name, _markup(escape(html)), has_script="<script" in html.lower())

    def _artifact(self, row: Row) -> SavedArtifact:
        png = find_picture(self._store, row["blob_id"])
        picture = None if png is None else f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
        return SavedArtifact(row["name"], row["type"], row["size_bytes"], row["preview"], picture)

    def sources(self) -> Iterator[SavedSource]:
        """Yield the files of the run's code."""
        code: Code | None = self._run.code
        if code is None:
            return
        macros = self._environment.get_template("parts.html").module
        for name in code.files:
            anchor = f"{self._prefix}-file-{quote(name, safe='')}"
            try:
                text = code.source(name, _LARGEST_SOURCE)
            except FlowstoreError:  # one file that cannot be read hides no other
                text = None
            html = None if text is None else self._linked(str(macros.source(text)), anchor)  # type: ignore[attr-defined]
            yield SavedSource(anchor, name, html)


def _lines(chunks: Iterable[Row]) -> Iterator[tuple[str, str]]:
    """Yield a log in whole lines, since a line may be cut within what `safe` has to see at once."""
    pending: dict[str, str] = {}
    for chunk in chunks:
        stream, text = chunk["stream"], pending.pop(chunk["stream"], "") + chunk["text"]
        end = text.rfind("\n") + 1
        if end == 0 and len(text) > _LONGEST_LINE:
            end = len(text)
        if end:
            yield stream, _as_shown(text[:end])
        if text[end:]:
            pending[stream] = text[end:]
    for stream, text in pending.items():
        yield stream, _as_shown(text)


def _as_shown(text: str) -> str:
    """Return lines as a terminal shows them at last, such as the end of a progress bar."""
    return safe("\n".join(map(last_state, text.split("\n"))) if "\r" in text else text)
