"""One attempt of one task: load what it reads, run the step, encode what it set. Never writes to the store.

`run_attempt` returns a report, and the large values that go with it; an executor carries them to the driver. The report
decides what becomes visible.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flowstore import alarm, context, later
from flowstore.errors import ArtifactError, FlowstoreError, GraphError, TaskFailed, TimeoutExpired
from flowstore.flow import init, spec
from flowstore.flow.attached import decorators_of
from flowstore.flow.decorators import Card, StepDecorator
from flowstore.flow.graph import Graph
from flowstore.flow.spec import FlowSpec, Transition
from flowstore.run.inputs import FOREACH_ITEMS, Source, TaskLink, inline_items, inputs_of, item_preview
from flowstore.run.local.ending import Ending
from flowstore.run.orders import Failure, Inline, Order, Report
from flowstore.run.plan import Outcome
from flowstore.run.task import Gang
from flowstore.store.blobs import INLINE_BYTES, Blob
from flowstore.store.cards import RenderedCard
from flowstore.store.codecs import INDEXABLE, NOTATIONS, Encoded, describe, encode
from flowstore.store.description import Description, NewBlob
from flowstore.store.opening import close_beside
from flowstore.store.pictures import Pictures
from flowstore.store.plain import MAX_METRICS
from flowstore.store.preview import type_name
from flowstore.text import counted

if TYPE_CHECKING:
    from flowstore.cards.task_cards import TaskCards

_OWN_FOLDERS = frozenset({Path(__file__).parent, Path(__file__).parent / "local", Path(init.__file__).parent})
_IMMUTABLE = frozenset({bool, int, float, str, bytes, complex, type(None)})


@later.frozen
class Product:
    """The product of an attempt.

    Attributes:
        report: for the driver.
        large: the values that are too large to travel in the report, in the order in which it names them.
    """

    report: Report
    large: Sequence[Encoded]


def run_attempt(
    flow: type[FlowSpec],
    graph: Graph,
    order: Order,
    source: Source,
    ending: Ending,
    show: Callable[[RenderedCard], None] = lambda _: None,
) -> Product:
    """Run one attempt.

    Args:
        flow: the flow's class, in this process.
        graph: its steps.
        order: what to run.
        source: where the task's inputs come from.
        ending: the end of this process.
        show: hands the state of a card to the driver while the attempt runs.
    """
    if not order.secrets:
        return _run(flow, graph, order, source, ending, show)
    from flowstore.flow.secrets import set_for_task

    with set_for_task(order.secrets):
        return _run(flow, graph, order, source, ending, show)


def _run(
    flow: type[FlowSpec],
    graph: Graph,
    order: Order,
    source: Source,
    ending: Ending,
    show: Callable[[RenderedCard], None],
) -> Product:
    state = context.state
    state.flow_module = sys.modules[flow.__module__]
    node = graph[order.step]
    link = TaskLink(order, source, step=order.step, task_id=order.base_id, is_join=node.is_join)
    instance = spec.bind(flow, link)
    if order.catch is not None and order.catch.var:
        object.__setattr__(instance, order.catch.var, None)
    process = os.getpid()
    before = state.task, state.namespace, state.task_store
    state.task, state.namespace = _identity(order, link), order.run.current["namespace"]
    state.store, state.task_store = None, (order.run.store, order.run.trusted)
    decorators = decorators_of(flow, order.step, order.run.with_)
    cards = _cards(decorators, instance, link, graph, order, show)
    state.task["card"] = None if cards is None else cards.current
    try:
        if init.has_own(flow):
            link.first_values = init.run(instance, link.load_parameter)
        _run_step(decorators, instance, link, graph, order, source)
        if os.getpid() != process:
            _leave(None, ending)
        product = _product(instance, link, order, _outcome(instance, link, graph, order))
        return product if cards is None else _with_cards(product, cards)
    except BaseException as error:  # whatever a step raises, SystemExit too, is the task's failure
        if os.getpid() != process:
            _leave(error, ending)
        product = _failed(instance, link, graph, order, error)
        return product if cards is None else _with_cards(product, cards)
    finally:
        _close_store()
        state.task, state.namespace, state.task_store = before


def _cards(
    decorators: Sequence[StepDecorator],
    instance: FlowSpec,
    link: TaskLink,
    graph: Graph,
    order: Order,
    show: Callable[[RenderedCard], None],
) -> TaskCards | None:
    """Return what makes the cards of a task, if its step has any: a task without one imports nothing for it."""
    if not decorators:  # in most tasks; in a forked process, each further call copies pages of memory
        return None
    wanted = [item for item in decorators if isinstance(item, Card)]
    if not wanted:
        return None
    from flowstore.cards.task_cards import TaskCards
    from flowstore.cards.task_view import TaskView

    parameters = {name: functools.partial(link.load_parameter, name) for name in order.run.parameters}
    pathspec = f"{order.run.flow}/{order.run.run_id}/{order.step}/{order.task_id}"
    return TaskCards(wanted, TaskView(pathspec, order.attempt, instance, link.visible, parameters), graph, show)


def _with_cards(product: Product, cards: TaskCards) -> Product:
    """Return the product of an attempt with the cards of its step, which are rendered once nothing can fail any more.

    Those of an attempt that failed stay as it refreshed them last.
    """
    report = product.report
    if report.status != "successful":
        cards.abandon()
        return product
    rendered = [(card, encoded) for card, encoded in cards.finish(report.artifacts)]
    large = [encoded for card, encoded in rendered if card.blob.data is None]
    return Product(later.evolve(report, cards=[card for card, _ in rendered]), [*product.large, *large])


def _run_step(
    decorators: Sequence[StepDecorator],
    instance: FlowSpec,
    link: TaskLink,
    graph: Graph,
    order: Order,
    source: Source,
) -> None:
    if order.fallback is not None:
        raise _Fallback(order.fallback)
    flow = type(instance)
    inputs = inputs_of(flow, order, source) if link.is_join else None
    step = functools.partial(getattr(flow, link.step), instance, *([inputs] if link.is_join else []))
    around: list[Any] = [item for item in decorators if item.runs_around] if decorators else []
    if around:
        from flowstore.flow import own

        step = functools.partial(own.call, around, instance, graph[link.step], step, inputs)
    if order.timeout_s:
        late = TimeoutExpired(f"Step {link.step} took longer than its timeout of {order.timeout_s:g} s.")
        with alarm.limited(order.timeout_s, late):
            step()
    else:
        step()


def _close_store() -> None:
    """Close what the task has opened; the driver, which has the run's file open too, closes that last."""
    store, context.state.store = context.state.store, None
    if store is not None:
        store.close(tidy=context.state.task_store is None or str(store.path) != context.state.task_store[0])
    close_beside()


def _leave(error: BaseException | None, ending: Ending) -> NoReturn:
    """End a process that the step itself forked: it must not speak for the task."""
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        import traceback

        traceback.print_exception(error)
    ending.finish()
    os._exit(code)


class _Fallback(TaskFailed):
    """Stands for the death of an earlier attempt's process, so that `@catch` can handle it here."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _failed(instance: FlowSpec, link: TaskLink, graph: Graph, order: Order, error: BaseException) -> Product:
    failure = _describe(error)
    catch = order.catch if order.last_attempt else None
    if isinstance(error, _Fallback):
        failure = error.failure
    elif catch is None or catch.print_exception:
        _complain(failure.traceback)
    if catch is None:
        return _product(instance, link, order, _Result("failed", failure=failure))
    if catch.var:
        from flowstore.client import ExceptionInfo

        object.__setattr__(instance, catch.var, ExceptionInfo(failure.full_type, failure.message, failure.traceback))
    result = _Result("successful", Outcome(graph[link.step].targets), failure=failure)
    try:
        return _product(instance, link, order, result)
    except ArtifactError as unstorable:  # what failed may be the storing itself: keep what can be kept
        _complain(f"@catch leaves out what cannot be stored: {unstorable}\n")
        return _product(instance, link, order, result, lenient=True)


def _complain(text: str) -> None:
    """Write to stderr, if the step has left it open."""
    with contextlib.suppress(ValueError, OSError, AttributeError):
        print(text, end="", file=sys.stderr, flush=True)


def _describe(error: BaseException) -> Failure:
    import traceback

    shown = error.__traceback__
    while shown is not None and Path(shown.tb_frame.f_code.co_filename).parent in _OWN_FOLDERS:
        shown = shown.tb_next  # begin with the user's own code
    if isinstance(error, FlowstoreError) and shown is None:
        text = f"{type(error).__name__}: {error}\n"
    else:
        text = "".join(traceback.format_exception(type(error), error, shown))
    try:
        message = str(error)
    except Exception:  # a user's __str__ may raise anything
        message = ""
    hide = context.state.hide or str
    texts = (type(error).__qualname__, hide(message), hide(text), str(type(error).__module__))
    return Failure(*(value.encode("utf-8", "backslashreplace").decode() for value in texts))


def _identity(order: Order, link: TaskLink) -> dict[str, Any]:
    """Return what `current` answers."""
    run = order.run
    return {
        **run.current,
        "step_name": order.step,
        "task_id": str(order.task_id),
        "pathspec": f"{run.flow}/{run.run_id}/{order.step}/{order.task_id}",
        "retry_count": order.attempt,
        "tags": frozenset(order.tags),
        "parameters": context.Parameters(run.parameters, link.load_parameter),
        "parallel": None if order.node_index is None else _gang(order, order.node_index),
    }


def _gang(order: Order, index: int) -> Gang:
    return Gang(order.main_ip, order.num_nodes, index, str(order.first_node_id))


def _outcome(instance: FlowSpec, link: TaskLink, graph: Graph, order: Order) -> _Result:
    """Return what comes next, with the items of a foreach."""
    transition, node = link.transition, graph[link.step]
    if node.kind == "end":
        return _Result("successful", Outcome())
    if transition is None:
        raise GraphError(f"Step {link.step} ended without self.next; it must be its last statement.")
    if transition.targets != node.targets:
        raise GraphError(
            f"Step {link.step} went to {', '.join(transition.targets)}, but its source says {', '.join(node.targets)}."
        )
    if transition.condition is not None and transition.cases is not None:
        return _Result("successful", Outcome((_choose(instance, link.step, transition),)))
    items = None
    outcome = Outcome(transition.targets)
    if transition.foreach is not None:
        items, items_from = _items(instance, link, transition.foreach)
        outcome = Outcome(transition.targets, len(items), items_from=items_from)
    elif transition.num_parallel is not None or node.kind == "parallel":
        outcome = Outcome(transition.targets, _num_parallel(link.step, transition), gang=True)
    if outcome.count is not None:
        _check_count(link.step, outcome.count, order.run.max_num_splits)
    return _Result("successful", outcome, items)


def _num_parallel(step: str, transition: Transition) -> int:
    count = transition.num_parallel
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise GraphError(f"Step {step}: num_parallel must be at least 1, not {count!r}.")
    return count


def _check_count(step: str, count: int, limit: int) -> None:
    if count > limit:
        raise GraphError(
            f"Step {step} asks for {counted(count, 'task')}, more than the limit of {limit}. "
            f"Raise it with --max-num-splits {count}."
        )


def _choose(instance: FlowSpec, step: str, transition: Transition) -> str:
    value = getattr(instance, transition.condition or "")
    cases = transition.cases or {}
    try:
        return cases[value]
    except (KeyError, TypeError):
        known = ", ".join(repr(case) for case in cases)
        raise GraphError(
            f"Step {step}: {transition.condition} is {value!r}, which is none of the cases {known}."
        ) from None


def _items(instance: FlowSpec, link: TaskLink, name: str) -> tuple[Sequence[Any], str]:
    """Return the items of a foreach, and the artifact from which a task can take them by index."""
    try:
        value = getattr(instance, name)
    except AttributeError:
        raise GraphError(f"Step {link.step}: the foreach list {name!r} is not set.") from None
    try:
        len(value)
        items = value if type_name(value) in INDEXABLE else list(value)
    except TypeError:
        raise GraphError(
            f"Step {link.step}: foreach needs something with a length, but {name!r} is of type {type_name(value)}. "
            f"Make it a list: self.{name} = list(…)"
        ) from None
    if len(items) == 0:
        raise GraphError(f"Step {link.step}: the foreach list {name!r} is empty, so there is nothing to run.")
    if items is not value:
        object.__setattr__(instance, FOREACH_ITEMS, items)
    return items, name if items is value else FOREACH_ITEMS


@later.frozen
class _Result:
    """How a step ended: the `status`, `outcome` and `failure` of its report, and the items of the foreach it opens."""

    status: str
    outcome: Outcome | None = None
    items: Sequence[Any] | None = None
    failure: Failure | None = None


def _product(instance: FlowSpec, link: TaskLink, order: Order, result: _Result, *, lenient: bool = False) -> Product:
    lenient = lenient or result.status == "failed"  # a failed attempt keeps what it can
    artifacts: dict[str, NewBlob] = {}
    large: list[Encoded] = []
    pictures: Pictures | None = None
    values = spec.artifacts_set_on(instance)
    if link.first_values:
        values = {**_unread_first_values(link, order), **values}
    for name, value in values.items():
        try:
            _check_name(instance, link, name)
            encoded = _changed(link, name, value)
        except ArtifactError as error:
            if lenient or link.first_values.get(name) is value:  # every task makes that itself
                continue
            raise ArtifactError(f"Artifact {name!r} of step {link.step} cannot be stored: {error}") from None
        if encoded is not None:
            description = encoded.description
            if description.codec not in NOTATIONS:  # builtins have no picture
                pictures = pictures or Pictures(_complain)
                description = pictures.added_to(description, name, value)
            artifacts[name] = _new_blob(encoded, description)
            large += [encoded] if artifacts[name].data is None else []
            if encoded.description.plain.too_many:
                _complain(f"{name} holds more than {MAX_METRICS} numbers, so none of them is a metric.\n")
    merged = {name: blob.id for name, blob in link.merged.items() if name not in artifacts}
    report = Report(
        status=result.status,
        outcome=result.outcome,
        artifacts=artifacts,
        items=None if result.items is None else inline_items(result.items),
        shown=None if result.items is None else [item_preview(item) for item in result.items],
        merged=merged,
        deleted=sorted({*link.forgotten} - artifacts.keys() - merged.keys()),
        failure=result.failure,
    )
    return Product(report, large)


def _new_blob(encoded: Encoded, description: Description) -> NewBlob:
    if description.size_bytes <= INLINE_BYTES:
        return NewBlob(description, data=encoded.content)
    return NewBlob(description, encoded.sha)


def _unread_first_values(link: TaskLink, order: Order) -> dict[str, Any]:
    """Return what the flow's `__init__` set, in a task that inherits nothing; later tasks inherit it from there."""
    if order.base_id is not None:
        return {}
    return {name: value for name, value in link.first_values.items() if name not in link.merged}


def _check_name(instance: FlowSpec, link: TaskLink, name: str) -> None:
    """Refuse, by the name, what was put past `self.name = value`, into `vars(self)`."""
    if name in link.loaded or name == FOREACH_ITEMS:
        return
    try:
        spec.check_assignable(type(instance), name)
    except AttributeError as error:
        raise ArtifactError(str(error)) from None


def _has_bytes(encoded: Encoded, blob: Blob | Inline) -> bool:
    """Return whether a value was encoded as the bytes of a blob."""
    if blob.data is not None:
        return encoded.size_bytes == len(blob.data) and encoded.content == blob.data
    return not isinstance(blob, Inline) and encoded.sha == blob.sha


def _changed(link: TaskLink, name: str, value: Any) -> Encoded | None:
    """Return what was set, encoded; `None` for what was only read, and is as it was."""
    blob, loaded = link.loaded.get(name, (None, None))
    if blob is None or loaded is not value:
        return encode(value)
    if type(value) in _IMMUTABLE:
        return None
    encoded = encode(value, described=False)
    if encoded.codec == blob.codec and _has_bytes(encoded, blob):
        return None
    if "pickle" in {blob.codec, encoded.codec}:  # a value has many pickles
        from flowstore.store.sameness import is_unchanged

        if is_unchanged(value, link.load_blob(blob, name)):
            return None
    return describe(encoded, value)
