"""The task as a card sees it: its artifacts as the attempt has them, which are not in the store yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from flowstore import context
from flowstore.errors import FlowstoreError
from flowstore.store import codecs
from flowstore.store.description import Description
from flowstore.store.preview import type_name

_PRIVATE = "_"


class TaskView:
    """A task that runs, as cards see it; the Client is asked for everything else.

    Args:
        pathspec: its address.
        attempt: the number of the attempt.
        instance: the flow's object, with what the step has set so far.
        inherited: returns what the task inherits, by name; asks the store.
        parameters: by name, what returns the value of each of the run's parameters.

    Attributes:
        finished: whether the step has ended.
        described: descriptions of what the step has set, by name, once that has been encoded.
    """

    def __init__(
        self,
        pathspec: str,
        attempt: int,
        instance: Any,
        inherited: Callable[[], Mapping[str, Any]],
        parameters: Mapping[str, Callable[[], Any]],
    ) -> None:
        self.pathspec = pathspec
        self.current_attempt = attempt
        self.finished = False
        self.described: Mapping[str, Description] = {}
        self._instance = instance
        self._inherited = inherited
        self._parameters = parameters

    @property
    def id(self) -> str:
        """The last part of the pathspec."""
        return self.path_components[-1]

    @property
    def path_components(self) -> list[str]:
        """The parts of the pathspec."""
        return self.pathspec.split("/")

    @property
    def successful(self) -> bool:
        """Whether the step has ended; cards of an attempt that fails are not rendered again."""
        return self.finished

    @property
    def status(self) -> str:
        """'successful' once the step has ended, else 'running'."""
        return "successful" if self.finished else "running"

    @property
    def flow_object(self) -> Any:
        """The flow's object in the task."""
        return self._instance

    def parameters(self) -> dict[str, Any]:
        """Return the values of the run's parameters, by name."""
        return {name: load() for name, load in self._parameters.items()}

    def set_here(self) -> list[ArtifactView]:
        """Return the artifacts that the step has set, without those that begin with an underscore."""
        values = self.described or vars(self._instance)
        return [ArtifactView(self, name) for name in values if not name.startswith(_PRIVATE)]

    @property
    def artifacts(self) -> Artifacts:
        """All artifacts, inherited ones included, without those that begin with an underscore."""
        return Artifacts(self)

    @property
    def data(self) -> Data:
        """The values of all artifacts."""
        return Data(self)

    def names(self) -> list[str]:
        """Return the names of all artifacts, inherited ones included."""
        own = [*self.described, *vars(self._instance)]
        return [name for name in dict.fromkeys([*self._inherited(), *own]) if not name.startswith(_PRIVATE)]

    def value(self, name: str) -> Any:
        """Return the value of an artifact.

        Raises:
            AttributeError: there is none of this name.
        """
        return getattr(self._instance, name)

    def describe(self, name: str) -> Description:
        """Return the description of an artifact: the one that it is stored with, if there is one yet."""
        if name in self.described:
            return self.described[name]
        if name not in vars(self._instance) and name not in self._parameters and name in self._inherited():
            description: Description = self._inherited()[name].description
            return description
        value = self.value(name)
        return Description("", 0, type_name(value), codecs.preview(value))

    def __iter__(self) -> Iterator[ArtifactView]:
        return iter(self.artifacts)

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __getitem__(self, name: str) -> ArtifactView:
        if name not in self:
            raise KeyError(name)
        return ArtifactView(self, name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or context.state.make_task is None:
            raise AttributeError(name)
        try:
            return getattr(context.state.make_task(self.pathspec), name)
        except FlowstoreError as error:
            raise AttributeError(f"{name} of the task is not known while it runs: {error}") from error

    def __repr__(self) -> str:
        return f"Task({self.pathspec!r})"


@attrs.frozen(eq=False)
class ArtifactView:
    """An artifact of a task that runs."""

    task: TaskView = attrs.field(repr=False)
    id: str

    @property
    def name(self) -> str:
        """Its name."""
        return self.id

    @property
    def pathspec(self) -> str:
        """Its address."""
        return f"{self.task.pathspec}/{self.id}"

    @property
    def data(self) -> Any:
        """Its value."""
        return self.task.value(self.id)

    @property
    def description(self) -> Description:
        """Its description, which is known without loading it."""
        return self.task.describe(self.id)

    @property
    def type(self) -> str:
        """The name of its type."""
        return self.description.type

    @property
    def size(self) -> int:
        """The length of its bytes; 0 while it is not encoded."""
        return self.description.size_bytes

    @property
    def preview(self) -> str:
        """A short text that shows it."""
        return self.description.preview


class Artifacts:
    """The artifacts of a task: by attribute, and in a loop."""

    def __init__(self, task: TaskView) -> None:
        self._task = task

    def __iter__(self) -> Iterator[ArtifactView]:
        return (ArtifactView(self._task, name) for name in self._task.names())

    def __getattr__(self, name: str) -> ArtifactView:
        if name.startswith("__") or name not in self._task:
            raise AttributeError(name)
        return ArtifactView(self._task, name)


class Data:
    """The values of a task's artifacts, by attribute."""

    def __init__(self, task: TaskView) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._task.value(name)

    def __contains__(self, name: object) -> bool:
        return name in self._task

    def __dir__(self) -> list[str]:
        return self._task.names()
