"""Completion in the shell: what is in the store, while a command is being typed.

It answers at once or not at all: a few dozen words, from indexes, and nothing where anything is wrong. A shell puts
a word on the command line as it is, so what it might take for more than a word is never offered.

bash takes a colon for the end of a word and so cuts `user:anne` in three. For bash the line is read whole instead, and
what bash takes for earlier words is cut off from the answers.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

from flowstore import context
from flowstore.cli.app import settings_of
from flowstore.client import Flow, Run, Step, Task
from flowstore.client.addresses import LATEST, LATEST_SUCCESSFUL
from flowstore.store import opening, queries
from flowstore.store.tags import RESERVED

MOST = 50
_PLAIN = re.compile(r"[\w/.][\w/.@%+=:-]*")

Words = Callable[[click.Context, click.Parameter, str], list[str]]


def _completes(find: Callable[[Any, str], Iterable[str]]) -> Words:
    """Return a function as click wants it, of one that finds words in a store."""

    def complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        try:
            with contextlib.redirect_stderr(io.StringIO()), _store(ctx) as store:
                words = (word for word in find(store, incomplete) if word.startswith(incomplete))
                return list(itertools.islice((word for word in words if _PLAIN.fullmatch(word)), MOST))
        except Exception:  # no store, a damaged one, a half-typed name: nothing to offer, and nowhere to say why
            return []

    return complete


@contextlib.contextmanager
def _store(ctx: click.Context) -> Iterator[Any]:
    """Open the store that --store names, or the nearest, in the namespace that --namespace names."""
    given = settings_of(ctx)
    if given.get("store"):
        opening.use_store(os.path.expanduser(given["store"]))  # noqa: PTH111  # a shell expands it later
    store = opening.active_store()
    try:
        with context.within(given.get("namespace") or None):
            yield store
    finally:
        store.close()


def _flows(store: Any, _incomplete: str) -> list[str]:
    return queries.flow_names(store, context.get_namespace())


def _runs(store: Any, incomplete: str) -> Iterator[str]:
    """Yield the newest runs, of the flow that is typed or of each."""
    typed, slash, _ = incomplete.partition("/")
    names = [typed] if slash else [name for name in _flows(store, "") if name.startswith(typed)]
    for name in names:
        newest = Flow(name).runs()
        if slash:
            yield from (f"{name}/{word}" for word in (LATEST, LATEST_SUCCESSFUL))
        yield from (run.pathspec for run in (newest if slash else itertools.islice(newest, MOST // len(names) + 1)))


def _pathspecs(store: Any, incomplete: str) -> Iterator[str]:
    """Yield the children of the prefix up to the last slash; with no slash, flows and their newest runs."""
    above = incomplete.split("/")[:-1]
    if not above:
        yield from _flows(store, "")
    if len(above) < 2:
        yield from _runs(store, incomplete)
    else:
        kind: Any = (Run, Step, Task)[len(above) - 2]
        yield from (child.pathspec for child in kind("/".join(above)))


def _tags(store: Any, incomplete: str) -> Iterator[str]:
    rows = store.rows(
        "select tag from tags where tag >= ? and tag < ? order by tag limit 1000",
        (incomplete, incomplete + "\U0010ffff"),
    )
    return (row["tag"] for row in rows)


def _namespaces(store: Any, incomplete: str) -> Iterator[str]:
    """Yield the namespaces of users and of production; any tag, once one is being typed."""
    return itertools.chain.from_iterable(_tags(store, prefix) for prefix in ([incomplete] if incomplete else RESERVED))


def files(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete files, which the shell finds by itself."""
    return [CompletionItem(incomplete, type="file")]


flows = _completes(_flows)
runs = _completes(_runs)
pathspecs = _completes(_pathspecs)
tags = _completes(_tags)
namespaces = _completes(_namespaces)


# --- bash

_SCRIPT = """\
%(complete_func)s() {
    local IFS=$'\\n' completion
    COMPREPLY=()
    for completion in $(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1"); do
        case "${completion%%%%,*}" in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${completion#*,}") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    source_template = _SCRIPT

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one that is being typed, and that one."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)
        typed = words.pop() if words and not line[-1:].isspace() else ""
        names = [PurePath(word).name for word in words]
        return words[names.index(self.prog_name) + 1 if self.prog_name in names else 1 :], typed

    def complete(self) -> str:
        """Return completions, cut at bash's last word break (`:` or `=`)."""
        args, typed = self.get_completion_args()
        value = typed.partition("=")[2] if typed.startswith("-") else typed
        breaks = set(":=") & set(os.environ.get("COMP_WORDBREAKS", ""))
        cut = 1 + max((value.rfind(mark) for mark in breaks), default=-1)
        return "\n".join(f"{item.type},{item.value[cut:]}" for item in self.get_completions(args, typed))


def teach_bash() -> None:
    """Let click complete in bash by the class above."""
    add_completion_class(_Bash, "bash")
