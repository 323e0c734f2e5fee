"""Orders and reports: the driver sends an order to a task's process, and a report comes back.

Both are frozen values with one encoder and one decoder each. Encoded, they consist of texts, numbers, bytes, lists,
tuples and dicts with text keys, so that any message format can carry them. The decoders accept lists in place of
tuples, which is what some formats make of them. Fields are encoded by position: their names would cost a freshly forked
process thirty more copied pages for each order.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from flowstore import later
from flowstore.flow.decorators import Catch
from flowstore.run.plan import Outcome
from flowstore.store.cards import RenderedCard
from flowstore.store.codecs import Encoded, decode
from flowstore.store.description import NewBlob


@later.frozen
class Inline:
    """A small encoded value, which travels inside an order or a report."""

    codec: str
    data: bytes

    @classmethod
    def of(cls, encoded: Encoded) -> Inline:
        """Return a value that was encoded."""
        return cls(encoded.codec, encoded.content)

    def load(self) -> Any:
        """Return the value.

        Raises:
            ArtifactError: it can't be rebuilt here.
        """
        return decode(self.codec, iter([self.data]), len(self.data))


@later.frozen
class Failure:
    """Why an attempt failed: the exception's type, its message, and the traceback as text; the type's module."""

    type: str
    message: str
    traceback: str
    module: str = ""

    @property
    def full_type(self) -> str:
        """The type with its module, as in `builtins.ValueError`."""
        return f"{self.module}.{self.type}".removeprefix(".")


@later.frozen
class OpenSplit:
    """A foreach or gang around a task.

    Attributes:
        kind: 'foreach' or 'gang'.
        count: the number of its tasks.
        opener_id: the task that opened it.
        items_from: the artifact of that task which holds the items.
        index: the task's position in it; `None` in the split that a join closes.
        item: the task's item, where all items are small.
    """

    kind: str
    count: int
    opener_id: int
    items_from: str | None = None
    index: int | None = None
    item: Inline | None = None


@later.frozen
class RunFacts:
    """The part of an order that is the same for all tasks of a run.

    Attributes:
        flow, run_id: the run's address.
        store: the path of the store's file; empty for a task on another machine, which asks the driver instead.
        trusted: whether the user trusts that file.
        max_num_splits: the largest number of tasks that one foreach or gang may have.
        parameters: the value of each parameter; `None` where it is too large to travel.
        constants: the names of the flow's constants.
        current: what `current` answers about the run.
        with_: the texts of `--with`, which decorate every step.
    """

    flow: str
    run_id: int
    store: str
    trusted: bool
    max_num_splits: int
    parameters: Mapping[str, Inline | None]
    constants: Sequence[str]
    current: Mapping[str, Any]
    with_: Sequence[str] = ()


@later.frozen
class Order:
    """One attempt of one task, as its process needs to know it.

    Attributes:
        run: what all orders of the run share.
        step: the step's name.
        task_id: the task's row.
        attempt: its number, from 0.
        last_attempt: whether no other follows if this one fails.
        base_id: the task with the artifacts that this one starts from: the nearest one before it that set any. `None`
            for a join, and for the first task.
        splits: the foreaches and gangs around the task, outermost first.
        inputs: the tasks that a join joins, with their steps.
        joined: the foreach or gang that a join closes.
        node_index: the task's position in its gang; `None` outside of one.
        num_nodes: how many members the gang has.
        first_node_id: the gang's first task.
        main_ip: the address of the machine on which that runs.
        tags: the run's.
        environment: variables that the task's process has from its beginning.
        secrets: variables that the step has, and whose values are hidden.
        timeout_s: how long the step may take; 0 for no limit.
        catch: the step's `@catch`.
        fallback: why the last attempt's process died, if all that is left to do is to catch that.
        values: small artifacts of the task `base_id`, by name: the codec and the bytes of each. The others are in the
            store, which a task that reads none of them need not open.
    """

    run: RunFacts
    step: str
    task_id: int
    attempt: int = 0
    last_attempt: bool = True
    base_id: int | None = None
    splits: Sequence[OpenSplit] = ()
    inputs: Sequence[tuple[int, str]] = ()
    joined: OpenSplit | None = None
    node_index: int | None = None
    num_nodes: int = 0
    first_node_id: int = 0
    main_ip: str = "127.0.0.1"
    tags: Sequence[str] = ()
    environment: Mapping[str, str] = later.field(factory=dict)
    secrets: Mapping[str, str] = later.field(factory=dict)
    timeout_s: float = 0
    catch: Catch | None = None
    fallback: Failure | None = None
    values: Mapping[str, tuple[str, bytes]] = later.field(factory=dict)

    @property
    def indexes(self) -> Sequence[int]:
        """The task's position in each foreach and gang around it, outermost first."""
        return [split.index or 0 for split in self.splits]


@later.frozen
class Report:
    """How an attempt ended, and what it leaves.

    Attributes:
        status: 'successful', 'failed' or 'stopped'.
        outcome: what the task asked for with `self.next`, if it succeeded.
        items: the items of the foreach that it opened, where all are small.
        shown: a preview of each of these items, of whatever size.
        artifacts: what it has set, by name.
        merged: the blobs of the artifacts that `merge_artifacts` carried over, by name.
        deleted: the names of inherited artifacts that it has deleted.
        failure: why it failed, or what `@catch` has caught.
        died: whether its process ended without a report, so that the driver wrote this one.
        cards: those of the step, as they are at the end.
        imported: the versions of the distributions of which it imported a module as the first in its process.
    """

    status: str
    outcome: Outcome | None = None
    items: Sequence[Inline] | None = None
    shown: Sequence[str | None] | None = None
    artifacts: Mapping[str, NewBlob] = later.field(factory=dict)
    merged: Mapping[str, int] = later.field(factory=dict)
    deleted: Sequence[str] = ()
    failure: Failure | None = None
    died: bool = False
    cards: Sequence[RenderedCard] = ()
    imported: Mapping[str, str] = later.field(factory=dict)

    @property
    def blobs(self) -> list[NewBlob]:
        """All blobs that it names, artifacts and cards."""
        return [*self.artifacts.values(), *(card.blob for card in self.cards)]


# --- encoders and decoders


_RUN, _ORDER, _SPLIT = later.names(RunFacts), later.names(Order), later.names(OpenSplit)
_PARAMETERS, _ITEM = _RUN.index("parameters"), _SPLIT.index("item")
_SPLITS, _JOINED = _ORDER.index("splits"), _ORDER.index("joined")
_values_of_run, _values_of_order, _values_of_split = attrgetter(*_RUN), attrgetter(*_ORDER), attrgetter(*_SPLIT)
_CATCH, _FALLBACK = _ORDER.index("catch"), _ORDER.index("fallback")


def encode_order(order: Order) -> list[Any]:
    """Return an order as plain values."""
    values = [*_values_of_order(order)]
    values[0] = _encode_facts(order.run)
    values[_SPLITS] = [_encode_split(split) for split in order.splits]
    values[_JOINED] = None if order.joined is None else _encode_split(order.joined)
    values[_CATCH] = None if order.catch is None else (order.catch.var, order.catch.print_exception)
    values[_FALLBACK] = None if order.fallback is None else _encode_failure(order.fallback)
    return values


@functools.lru_cache(maxsize=1)  # all orders of a run share them
def _encode_facts(run: RunFacts) -> list[Any]:
    facts = [*_values_of_run(run)]
    facts[_PARAMETERS] = {name: _pair(value) for name, value in run.parameters.items()}
    return facts


def decode_order(plain: Sequence[Any]) -> Order:
    """Return the order that `encode_order` has encoded."""
    facts, values = [*plain[0]], [*plain]
    inline = {name: None if pair is None else Inline(*pair) for name, pair in facts[_PARAMETERS].items()}
    facts[_PARAMETERS] = inline
    values[0] = RunFacts(*facts)
    values[_SPLITS] = [*map(_decode_split, values[_SPLITS])]
    if values[_JOINED] is not None:
        values[_JOINED] = _decode_split(values[_JOINED])
    if values[_CATCH] is not None:
        var, print_exception = values[_CATCH]
        values[_CATCH] = Catch(var=var, print_exception=print_exception)
    if values[_FALLBACK] is not None:
        values[_FALLBACK] = Failure(*values[_FALLBACK])
    return Order(*values)


def _encode_split(split: OpenSplit) -> list[Any]:
    values = [*_values_of_split(split)]
    values[_ITEM] = _pair(split.item)
    return values


def _decode_split(plain: Sequence[Any]) -> OpenSplit:
    values = [*plain]
    if values[_ITEM] is not None:
        values[_ITEM] = Inline(*values[_ITEM])
    return OpenSplit(*values)


def _pair(value: Inline | None) -> tuple[str, bytes] | None:
    return None if value is None else (value.codec, value.data)


def _encode_failure(failure: Failure) -> tuple[str, str, str, str]:
    return failure.type, failure.message, failure.traceback, failure.module


def encode_report(report: Report) -> tuple[Any, ...]:
    """Return a report as plain values."""
    outcome, items = report.outcome, report.items
    return (
        report.status,
        None if outcome is None else (outcome.targets, outcome.count, outcome.gang, outcome.items_from),
        None if items is None else [(item.codec, item.data) for item in items],
        report.shown,
        {name: blob.packed for name, blob in report.artifacts.items()},
        report.merged,
        report.deleted,
        None if report.failure is None else _encode_failure(report.failure),
        report.died,
        [card.packed for card in report.cards] if report.cards else (),
        report.imported,
    )


def decode_report(plain: Sequence[Any]) -> Report:
    """Return the report that `encode_report` has encoded.

    Raises:
        ValueError: these are not the values of a report.
    """
    try:
        status, outcome, items, shown, artifacts, merged, deleted, failure, died, cards, imported = plain
        if outcome is not None:
            targets, *more = outcome
            outcome = Outcome(tuple(targets), *more)
        return Report(
            status=status,
            outcome=outcome,
            items=None if items is None else [Inline(*pair) for pair in items],
            shown=shown,
            artifacts={name: NewBlob.unpacked(packed) for name, packed in artifacts.items()},
            merged=merged,
            deleted=deleted,
            failure=None if failure is None else Failure(*failure),
            died=died,
            cards=[*map(RenderedCard.unpacked, cards)],
            imported={str(name): str(version) for name, version in imported.items()},
        )
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"this is not a report: {error}") from error
