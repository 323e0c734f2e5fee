"""The decorators of a flow's steps: those of the source and of `--with`, as mutators have changed them.

Most flows have no mutators, and neither they nor their tasks load what those need.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flowstore.flow.decorators import FLOW_MUTATORS, StepDecorator, own_decorators, with_others
from flowstore.flow.graph import steps_of

_prepared: dict[type, bool] = {}  # each flow that was looked at, and whether mutators change it or its steps


def has_mutators(flow: type) -> bool:
    """Return whether mutators change a flow itself."""
    return any(FLOW_MUTATORS in vars(cls) for cls in flow.__mro__)


def prepare(flow: type) -> None:
    """Let the mutators of a flow change its parameters and decorators, once in a process.

    Raises:
        GraphError: one does what it may not.
    """
    if flow in _prepared:
        return
    changes = has_mutators(flow) or any(_has_mutator(own_decorators(step)) for step in steps_of(flow).values())
    if changes:
        from flowstore.flow.mutators import pre_mutate

        pre_mutate(flow)
    _prepared[flow] = changes


def decorators_of(flow: type, step: str, with_: Sequence[str] = ()) -> Sequence[StepDecorator]:
    """Return the decorators of a step after all mutators, the outermost first; cards of `--with` come last.

    Args:
        flow: the flow's class.
        step: the step.
        with_: the texts of `--with`, which stand outside of the step's own, and yield to them.

    Raises:
        GraphError: a text is no decorator, or a mutator does what it may not.
    """
    prepare(flow)
    if not _prepared[flow]:
        items = own_decorators(getattr(flow, step))
        if not items and not with_:  # in most tasks; in a forked process, each further call copies pages of memory
            return items
        items = with_others(items, with_)
        if not _has_mutator(items):
            return items
    from flowstore.flow.mutators import mutated

    return mutated(flow, step, with_)


def _has_mutator(items: Iterable[StepDecorator]) -> bool:
    return any(item.is_mutator for item in items)
