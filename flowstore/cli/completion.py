"""Completion in the shell: what is in the store, while a command is being typed.

It answers at once or not at all: a few dozen words, from indexes, and nothing where anything is wrong. A shell puts
a word on the command line as it is, so what it might take for more than a word is never offered.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

MOST = 50
_PLAIN = re.compile(r"[\w/.][\w/.@%+=:-]*")

Words = Callable[[click.Context, click.Parameter, str], list[str]]


def _completes(find: Callable[[Any, str], Iterable[str]]) -> Words:
    """A function as click wants it, of one that finds words in a store."""

    def complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        try:
            with contextlib.redirect_stderr(io.StringIO()), _looking_at(ctx) as store:
                found = (word for word in find(store, incomplete) if word.startswith(incomplete))
                return list(itertools.islice((word for word in found if _PLAIN.fullmatch(word)), MOST))
        except (
            Exception
        ):  # no store, a damaged one, a half-typed name: there is nothing to offer, and no place to say so
            return []

    return complete


@contextlib.contextmanager
def _looking_at(ctx: click.Context) -> Iterator[Any]:
    """The store that --store names, or the nearest, seen in the namespace that --namespace names."""
    from flowstore import context
    from flowstore.cli.shell import settings
    from flowstore.store import opening

    given = settings(ctx)
    if given.get("store"):
        opening.use_store(os.path.expanduser(given["store"]))  # noqa: PTH111  # a shell expands it later
    store = opening.active_store()
    try:
        with context.within(given.get("namespace") or None):
            yield store
    finally:
        store.close()


def _flows(store: Any, _incomplete: str) -> list[str]:
    from flowstore import context
    from flowstore.store import queries

    return queries.flow_names(store, context.get_namespace())


def _runs(store: Any, incomplete: str) -> Iterator[str]:
    """The newest runs, of the flow that is typed or of each."""
    from flowstore.client import Flow

    name, slash, _ = incomplete.partition("/")
    names = [name] if slash else [each for each in _flows(store, "") if each.startswith(name)]
    for each in names:
        newest = Flow(each).runs()
        yield from (run.pathspec for run in (newest if slash else itertools.islice(newest, MOST // len(names) + 1)))


def _pathspecs(store: Any, incomplete: str) -> Iterator[str]:
    """What is in what is typed up to its last slash; at first flows, with their newest runs."""
    from flowstore.client import Run, Step, Task

    above = incomplete.split("/")[:-1]
    if not above:
        yield from _flows(store, "")
    if len(above) < 2:
        yield from _runs(store, incomplete)
    else:
        kind: Any = (Run, Step, Task)[len(above) - 2]
        yield from (found.pathspec for found in kind("/".join(above)))


def _tags(store: Any, incomplete: str) -> Iterator[str]:
    rows = store.rows(
        "select tag from tags where tag >= ? and tag < ? order by tag limit 1000",
        (incomplete, incomplete + "\U0010ffff"),
    )
    return (row["tag"] for row in rows)


def _namespaces(store: Any, incomplete: str) -> Iterator[str]:
    """Those of users and of production; any tag, once one is being typed."""
    from flowstore.store.tags import RESERVED

    return itertools.chain.from_iterable(_tags(store, prefix) for prefix in ([incomplete] if incomplete else RESERVED))


def files(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files, which the shell finds by itself."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


flows = _completes(_flows)
runs = _completes(_runs)
pathspecs = _completes(_pathspecs)
tags = _completes(_tags)
namespaces = _completes(_namespaces)
