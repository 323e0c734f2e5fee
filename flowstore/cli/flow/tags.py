"""`tag add | remove | replace | list`: the tags of a flow's runs, and of what is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import click

from flowstore import context, later
from flowstore.cli.app import STORE, Group, command, gather
from flowstore.cli.flow.flow_file import NAMESPACE, FlowFile
from flowstore.client import DataArtifact, Flow, Flows, Run, Step, Task
from flowstore.errors import NotFound
from flowstore.text import one_line


@later.frozen
class _Target:
    """The object that --run-id or --pathspec names."""

    run_id: str | None
    pathspec: str | None

    def is_named(self) -> bool:
        """Return whether one of the two options is given."""
        return bool(self.run_id or self.pathspec)

    def find(self, this: FlowFile) -> Any:
        """Return the object; changing tags needs one."""
        if (self.run_id is None) == (self.pathspec is None):
            raise click.UsageError("Say which object: --run-id ID or --pathspec RUN/step[/task[/artifact]].")
        if self.run_id is not None:
            return this.find(self.run_id, Run)
        return this.find(self.pathspec or "", Run, Step, Task, DataArtifact)


def _of_an_object(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name an object, as one `target`."""
    run = click.option("--run-id", metavar="RUN", help="The run: 5, latest or latest-successful.")
    pathspec = click.option(
        "--pathspec",
        metavar="RUN/step[/task[/artifact]]",
        help="What is in a run, such as 5/train, latest/train/latest or 5/metrics.",
    )
    return run(pathspec(gather(target=_Target)(function)))


@command(STORE, NAMESPACE)
@click.argument("tags", nargs=-1, required=True, metavar="TAG…")
@_of_an_object
def add(this: FlowFile, tags: tuple[str, ...], target: _Target) -> None:
    """Add tags to a run, a step, a task or an artifact.

    Example:
        python flow.py tag add checked --run-id 5
    """
    target.find(this).add_tags(tags)


@command(STORE, NAMESPACE)
@click.argument("tags", nargs=-1, required=True, metavar="TAG…")
@_of_an_object
def remove(this: FlowFile, tags: tuple[str, ...], target: _Target) -> None:
    """Remove tags from a run, a step, a task or an artifact.

    Example:
        python flow.py tag remove checked --pathspec 5/train
    """
    target.find(this).remove_tags(tags)


@later.frozen
class _Change:
    """The tags to remove and to add: OLD and NEW, or --remove and --add."""

    tags: tuple[str, ...]
    remove: tuple[str, ...]
    add: tuple[str, ...]


@command(STORE, NAMESPACE)
@click.argument("tags", nargs=-1, metavar="[OLD NEW]")
@click.option("--remove", multiple=True, metavar="TAG", help="Remove this; may be repeated.")
@click.option("--add", multiple=True, metavar="TAG", help="Add this; may be repeated.")
@_of_an_object
@gather(change=_Change)
def replace(this: FlowFile, change: _Change, target: _Target) -> None:
    """Replace one tag by another, or some by others.

    Example:
        python flow.py tag replace new checked --run-id 5
    """
    pair, others = change.tags, change.remove or change.add
    if pair and (others or len(pair) != 2):
        raise click.UsageError("Give OLD NEW, or --remove and --add.")
    if not (pair or others):
        raise click.UsageError("Nothing to replace: give OLD NEW, or --remove and --add.")
    target.find(this).replace_tags(*(([pair[0]], [pair[1]]) if pair else (change.remove, change.add)))


# --- list


@later.frozen
class _Runs:
    """The runs to list where no object is named: the latest one, all, or the user's own."""

    all: bool
    my_runs: bool

    def objects(self, this: FlowFile, target: _Target) -> list[Any]:
        """Return the objects whose tags are listed."""
        several = self.all or self.my_runs
        if target.is_named():
            if several:
                raise click.UsageError("Give --all or --my-runs, or name one run.")
            return [target.find(this)]
        own = f"user:{context.username()}" if self.my_runs else context.get_namespace()
        with context.within(None if self.all else own):
            if this.name not in Flows():
                raise NotFound(f"There is no run of {this.name} in the namespace {context.get_namespace()!r}.")
            flow = Flow(this.name)
            return list(flow) if several else [flow.latest_run]


@later.frozen
class _Layout:
    """How tags are listed: bare, by tag or by run; a run with its tags where none of them is chosen."""

    flat: bool
    group_by_tag: bool
    group_by_run: bool

    def echo(self, tags: Mapping[str, Iterable[str]]) -> None:
        """Print the tags of each object."""
        if self.group_by_tag or (self.flat and len(tags) > 1):
            objects: dict[str, list[str]] = {}
            for pathspec, names in tags.items():
                for name in names:
                    objects.setdefault(name, []).append(pathspec)
            self._echo_groups(dict(sorted(objects.items())) if self.flat else objects)
        else:
            self._echo_groups({"": next(iter(tags.values()))} if len(tags) == 1 and not self.group_by_run else tags)

    def _echo_groups(self, groups: Mapping[str, Iterable[str]]) -> None:
        for head, members in groups.items():
            if head:
                click.echo(one_line(head))
            for member in () if self.flat and head else members:
                click.echo(f"  {one_line(member)}" if head else one_line(member))


@command(STORE, NAMESPACE)
@_of_an_object
@click.option("--all", is_flag=True, help="Of all runs of the flow, in whichever namespace.")
@click.option("--my-runs", is_flag=True, help="Of all runs of the flow in your own namespace.")
@click.option("--flat", is_flag=True, help="One tag per line, nothing else.")
@click.option("--group-by-tag", is_flag=True, help="Each tag with its runs.")
@click.option("--group-by-run", is_flag=True, help="Each run with its tags.")
@click.option("--hide-system-tags", is_flag=True, help="Only tags that people set.")
@gather(runs=_Runs, layout=_Layout)
def list_(this: FlowFile, target: _Target, runs: _Runs, layout: _Layout, hide_system_tags: bool) -> None:
    """List tags: of the latest run, of several runs, or of one object.

    Example:
        python flow.py tag list --all --group-by-tag
    """
    if sum(attrs.astuple(layout)) > 1:
        raise click.UsageError("Give one of --flat, --group-by-tag and --group-by-run.")
    objects = runs.objects(this, target)
    layout.echo({one.pathspec: sorted(one.user_tags if hide_system_tags else one.tags) for one in objects})


tag = Group(
    "tag",
    [add, remove, replace, list_],
    help="Tag runs, and what is in them.",
    example="python flow.py tag add checked --run-id 5",
)
