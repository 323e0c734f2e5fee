"""Mistakes in `run`, `resume` and `deploy create` that can be found before a run exists.

Each check raises before the store is touched, so that a typo leaves nothing behind. A run that died of one would be
the origin of the next plain `resume`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType

from flowstore import context
from flowstore.errors import FlowstoreError, GraphError
from flowstore.flow import decorators
from flowstore.flow.attached import decorators_of
from flowstore.flow.graph import steps_of
from flowstore.flow.members import check_catch
from flowstore.flow.parameters import IncludeFile, parameters_of


def check_flow(flow: type) -> None:
    """Check what a flow's own source says beside its graph: the defaults of its parameters, and its schedule.

    Raises:
        FlowstoreError: the first thing that is wrong.
    """
    for parameter in parameters_of(flow).values():
        parameter.default_value(flow.__name__, context.username())
    check_schedule(flow)


def check_fixed_defaults(flow: type) -> None:
    """Check the defaults that are plain values, which are wrong whether a run needs them or not.

    Raises:
        ParameterError: one does not fit its parameter's type.
    """
    for parameter in parameters_of(flow).values():
        if not callable(parameter.default) and not isinstance(parameter, IncludeFile):
            parameter.default_value(flow.__name__, "")


def check_schedule(flow: type) -> None:
    """Check the cron line and the time zone of `@schedule`.

    Raises:
        GraphError: they don't name a time.
    """
    for decorator in getattr(flow, "_flow_decorators", ()):
        if isinstance(decorator, decorators.schedule):
            from flowstore.flow.cron import schedule_of

            schedule_of(decorator)


def check_decorators(flow: type, texts: Sequence[str]) -> None:
    """Check the texts of `--with`, the types of cards that these and the steps name, and the sources of secrets.

    Raises:
        GraphError: one is no decorator, or a decorator can't have such an option, or there is no such type or source.
    """
    for text in texts:
        try:
            decorator = decorators.from_text(text)
        except GraphError as error:
            raise GraphError(f"--with {text}: {error}") from None
        if isinstance(decorator, decorators.Catch):
            check_catch(flow, decorator)
    for name, step in steps_of(flow).items():
        attached = decorators_of(flow, name, texts)
        for decorator in attached:
            if isinstance(decorator, decorators.Card):
                _check_card(decorator, name, step)
            elif decorator.name == "secrets":
                environment = [item.vars for item in attached if isinstance(item, decorators.Environment)]
                decorator.values(name, environment[0] if environment else {})  # type: ignore[attr-defined]


def secrets_in_source(flow: type, texts: Sequence[str]) -> list[str]:
    """Return a sentence about each step whose secrets stand in the source, and so in the snapshots of runs."""
    sentences: list[str] = []
    for name, step in steps_of(flow).items():
        if any(item.name == "secrets" and item.has_inline for item in decorators_of(flow, name, texts)):  # type: ignore[attr-defined]
            code = inspect.unwrap(step).__code__
            sentences.append(
                f"{code.co_filename}:{code.co_firstlineno}: step {name!r} has secrets of the type inline, which are in "
                "the source, and so in the code that each run keeps. Put them into a file of the type env-file."
            )
    return sentences


def _check_card(card: decorators.Card, step: str, function: FunctionType) -> None:
    """Check the type of a card; what cards need is imported before tasks are forked, so that none of them has to."""
    from flowstore.cards.contract import check_type
    from flowstore.cards.task_cards import warm_up

    check_type(card.type, step)
    warm_up(function.__code__.co_filename)


def check_run_id_file(file: str | None, store: str | None = None) -> None:
    """Check that the run's id can be written to a file, which is not the store, an existing one or a new one.

    Raises:
        FlowstoreError: it can't, and why.
    """
    if file is None:
        return
    path = Path(file)
    problem = None
    try:
        if path.is_dir():
            problem = "it is a folder"
        elif not path.parent.is_dir():
            problem = f"there is no folder {path.parent}"
        elif not os.access(path if path.exists() else path.parent, os.W_OK):
            problem = "it cannot be written" if path.exists() else f"nothing can be written in {path.parent}"
        elif path.exists() and not path.is_file() and not path.is_char_device():
            problem = "it is no plain file"
    except (OSError, ValueError) as error:  # a name that is too long, or holds a null character
        problem = getattr(error, "strerror", None) or str(error)
    else:
        from flowstore.sqlite import outputs
        from flowstore.store import opening

        if problem is None:
            outputs.check(path, store=Path(store) if store else opening.candidates()[0])
    if problem is not None:
        raise FlowstoreError(f"--run-id-file {file}: {problem}. Give the path of a file to write.")
