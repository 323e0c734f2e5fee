"""The user, the active namespace and store of this process, and `current`.

The `state` object below holds what this process has chosen. Everything else is handed what it needs. Five hooks point
upwards in the layers. The package's `__init__` sets `make_run`, `make_task` and `make_trigger`, for `current.run`,
`current.task` and `current.trigger`, and `main`, for `FlowSpec()` in a script; `flowstore.metaflow` sets `add_options`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from flowstore.errors import FlowstoreError
from flowstore.text import did_you_mean

STARTED_AT: Final = time.time()  # about when this process read the flow's file, and before it imported much


class Unset:
    """Stands for "the user never chose a namespace", which `None` (the global one) can't."""


UNSET: Final = Unset()


class State:
    """The choices of a process, or those that a task was started with."""

    def __init__(self) -> None:
        self.namespace: str | Unset | None = UNSET
        self.store: Any = None  # the open flowstore.sqlite.database.Database of this process, if any
        self.task_store: tuple[str, bool] | None = None  # in a task: the run's file, and whether it is trusted
        self.task: dict[str, Any] = {}  # what `current` answers, empty outside a task
        self.project: dict[str, Any] = {}  # what `current` answers outside a task: of the project, for defaults
        self.flow_module: ModuleType | None = None  # the module whose classes are this run's own
        self.at_store = False  # whether a value is being pickled for the store, or loaded from it
        self.make_run: Callable[[str], Any] | None = None
        self.make_task: Callable[[str], Any] | None = None
        self.make_trigger: Callable[[Any], Any] | None = None
        self.hide: Callable[[str], str] | None = None  # in a task with secrets: returns a text without them
        self.main: Callable[[type], None] | None = None
        self.launcher: str | None = None  # the module that runs the program, as `python -m LAUNCHER flow.py`
        self.prefixes: tuple[str, ...] = ("FLOWSTORE",)  # of environment variables; the first that is set counts
        self.add_options: Callable[[Any], None] | None = None  # adds to a flow's tree of commands
        self.transient_code = 1  # the exit code after a transient error


state = State()


def username() -> str:
    """Return the name that runs are tagged with: `$FLOWSTORE_USER`, `$USERNAME`, `$USER`, else the account's."""
    for variable in (*variables("USER"), "USERNAME", "USER"):
        if name := os.environ.get(variable):
            if not is_text(name):
                raise FlowstoreError(f"${variable} is {name!r}, which is not valid Unicode text. Set $FLOWSTORE_USER.")
            return name
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # an account without a name, as in some containers
        raise FlowstoreError("This account has no name: set $FLOWSTORE_USER to the name to tag runs with.") from None


def variables(name: str) -> list[str]:
    """Return the environment variables that may hold a setting, the one that counts first.

    >>> variables("RUN_ALPHA")
    ['FLOWSTORE_RUN_ALPHA']
    """
    return [f"{prefix}_{name}" for prefix in state.prefixes]


def is_text(value: str) -> bool:
    r"""Return whether a text can be stored: one from a command line or the environment may hold lone surrogates.

    >>> is_text("é"), is_text("\udcff")
    (True, False)
    """
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def home() -> Path:
    """Return the folder of this user's key, tokens and trusted files: `$FLOWSTORE_HOME`, else the platform's."""
    if chosen := os.environ.get("FLOWSTORE_HOME"):
        return Path(chosen)
    if sys.platform == "linux":  # platformdirs' answer, without the 10 ms that importing it takes
        return Path(os.environ.get("XDG_DATA_HOME", "").strip() or Path("~/.local/share").expanduser()) / "flowstore"
    from platformdirs import user_data_path

    return user_data_path("flowstore", appauthor=False)


def command_text() -> str | None:
    """Return the program that was given to `python -c`, which Python keeps among its own arguments."""
    if sys.argv[:1] != ["-c"] or len(sys.orig_argv) <= len(sys.argv):
        return None
    return sys.orig_argv[len(sys.orig_argv) - len(sys.argv)]


def called_as() -> str:
    """Return how this process was started, as a person would type it."""
    import shlex

    if sys.argv[:1] == ["-c"]:
        return "python -c '…'"
    python = "python" if state.launcher is None else f"python -m {state.launcher}"
    name = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", None)
    if name is None or name == "__main__":  # the latter in a folder or zip file that is run
        return f"{python} {shlex.quote(sys.argv[0])}"
    return f"{python} -m {name.removesuffix('.__main__')}"


def namespace(tag: str | None) -> str | None:
    """Switch what the Client shows to objects tagged `tag`; `None` shows everything.

    Namespaces keep results organized. They are not a security boundary.

    Args:
        tag: any tag, such as `"user:anne"` or `"xyz_features"`, or `None` for the global namespace.

    Returns:
        The namespace that is now active.

    Example:
        >>> namespace("user:anne")
        'user:anne'
        >>> namespace(None) is None
        True
        >>> _ = default_namespace()
    """
    state.namespace = checked_namespace(tag)
    return tag


def checked_namespace(tag: str | None) -> str | None:
    """Return a namespace as it is.

    Raises:
        FlowstoreError: it can be none.
    """
    if tag is not None and (not isinstance(tag, str) or not tag or not is_text(tag)):
        raise FlowstoreError(f"A namespace is a tag, or None for the global one, not {tag!r}.")
    return tag


def get_namespace() -> str | None:
    """Return the active namespace: a tag, or `None` where everything is visible."""
    if isinstance(state.namespace, Unset):
        return f"user:{username()}"
    return state.namespace


def default_namespace() -> str | None:
    """Switch back to the namespace that this process started with, usually `user:NAME`, and return it."""
    state.namespace = state.task.get("namespace", UNSET)
    return get_namespace()


class Current:
    """The task that is running.

    Outside a task, `is_running_flow` is `False`, `card` raises AttributeError, and all else is `None`.

    Attributes:
        flow_name, run_id, step_name, task_id, pathspec, namespace, username: text.
        origin_run_id: the run that is being resumed, `None` in a plain run.
        retry_count: 0 in the first attempt.
        tags: the run's user tags when the task started, a set.
        parameters: the run's parameters, by name and by attribute; `parameter_names` lists their names.
        project_name, branch_name, project_flow_name, is_production, is_user_branch: of `@project`.
        parallel: `node_index`, `num_nodes`, `main_ip`, `control_task_id` of a gang's member.
        is_running_flow: whether this process runs a task.
        run, task: the Client's objects.
        card: the step's cards; see `flowstore.cards`.
        trigger: the events that started the run, a `Trigger`.
    """

    _NAMES = (
        "flow_name", "run_id", "origin_run_id", "step_name", "task_id", "pathspec", "namespace",
        "username", "retry_count", "tags", "parameters", "is_running_flow", "run", "task",
        "project_name", "branch_name", "project_flow_name", "is_production", "is_user_branch", "parallel", "card",
        "parameter_names", "trigger",
    )  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        if name not in self._NAMES:
            hint = did_you_mean(name, self._NAMES) or f" It has: {', '.join(self._NAMES)}."
            raise AttributeError(f"current has no attribute {name!r}.{hint}", name=name)  # Python adds no hint then
        if name == "card":
            return self._card()
        if name == "is_running_flow":
            return bool(state.task)
        if name == "run" and state.task and state.make_run:
            return state.make_run("/".join(state.task["pathspec"].split("/")[:2]))
        if name == "task" and state.task and state.make_task:
            return state.make_task(state.task["pathspec"])
        if name == "trigger":
            recorded = state.task.get(name)
            return state.make_trigger(recorded) if recorded and state.make_trigger else None
        if name == "parameter_names" and state.task:
            return state.task["parameters"].keys()
        if name == "tags" and state.task:
            return set(state.task["tags"])
        return state.task.get(name, state.project.get(name))

    def _card(self) -> Any:
        """Return the step's cards; a step without one has no `current.card`, so that a typo is found at once."""
        cards = state.task.get("card")
        if cards is None:
            where = f"step {state.task['step_name']} has no @card" if state.task else "no task is running here"
            text = f"There is no current.card, since {where}. Write @card above @step, or --with card."
            raise AttributeError(text, name="card")
        return cards

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of `name`, or `default` where it is unknown or `None`."""
        value = getattr(self, name, None)
        return default if value is None else value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and getattr(self, name, None) is not None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._NAMES]


current = Current()


class Parameters:
    """A run's parameters, by attribute, by name, and as a mapping's `keys()`, `items()`.

    >>> p = Parameters(["alpha"], {"alpha": 0.5}.get)
    >>> p.alpha, p["alpha"], "alpha" in p, dict(p.items())
    (0.5, 0.5, True, {'alpha': 0.5})
    """

    def __init__(self, names: Collection[str], load: Callable[[str], Any]) -> None:
        self._names = names
        self._load = load

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._load(name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._names:
            raise AttributeError(f"the run has no parameter {name!r}")
        return self._load(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def keys(self) -> list[str]:
        """Return the names, in the order of definition."""
        return list(self._names)

    def items(self) -> list[tuple[str, Any]]:
        """Return names and values."""
        return [(name, self._load(name)) for name in self._names]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._names]


@contextlib.contextmanager
def within(tag: str | None) -> Iterator[None]:
    """Look at another namespace, for a block; `None` is the global one."""
    before, state.namespace = state.namespace, tag
    try:
        yield
    finally:
        state.namespace = before
