"""`tag add | remove | replace | list`: the tags of a flow's runs, and of what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from flowstore import context
from flowstore.cli.options import FlowFile, command, group, wrong_usage
from flowstore.client import DataArtifact, Flow, Flows, Run, Step, Task
from flowstore.errors import InvalidPathspec, NotFound
from flowstore.text import one_line


def tag_group(this: FlowFile) -> click.Group:
    """The commands, for one flow."""
    where = [
        click.Option(["--run-id"], metavar="ID", help="The run."),
        click.Option(["--pathspec"], metavar="RUN/step[/task[/artifact]]", help="The run, step, task or artifact."),
    ]
    tags = click.Argument(["tags"], nargs=-1, required=True, metavar="TAG…")
    pair = click.Argument(["tags"], nargs=-1, metavar="[OLD NEW]")
    many = [
        click.Option(["--remove"], multiple=True, metavar="TAG", help="Remove this; may be repeated."),
        click.Option(["--add"], multiple=True, metavar="TAG", help="Add this; may be repeated."),
    ]
    flags = [
        click.Option([f"--{name}"], is_flag=True, help=text)
        for name, text in (
            ("all", "Of all runs of the flow, in whichever namespace."),
            ("my-runs", "Of all runs of the flow in your own namespace."),
            ("flat", "A tag a line, nothing else."),
            ("group-by-tag", "Each tag with its runs."),
            ("group-by-run", "Each run with its tags."),
            ("hide-system-tags", "Only tags that people set."),
        )
    ]

    def add(tags: tuple[str, ...], **place: str | None) -> None:
        _find(this, place).add_tags(tags)

    def remove(tags: tuple[str, ...], **place: str | None) -> None:
        _find(this, place).remove_tags(tags)

    def replace(tags: tuple[str, ...], remove: tuple[str, ...], add: tuple[str, ...], **place: str | None) -> None:
        if tags and (remove or add or len(tags) != 2):
            raise click.UsageError("Give OLD NEW, or --remove and --add.")
        if not (tags or remove or add):
            raise click.UsageError("Nothing to replace: give OLD NEW, or --remove and --add.")
        _find(this, place).replace_tags(*(([tags[0]], [tags[1]]) if tags else (remove, add)))

    def list_(**given: Any) -> None:
        _list(this, **given)

    return group(
        "tag",
        "Tag what runs left.",
        [
            command("add", add, "Add tags.", [tags, *where]),
            command("remove", remove, "Remove tags.", [tags, *where]),
            command("replace", replace, "Replace one tag by another, or some by others.", [pair, *many, *where]),
            command("list", list_, "List tags, of the latest run if nothing is named.", [*where, *flags]),
        ],
    )


def _find(this: FlowFile, place: Mapping[str, str | None]) -> Any:
    """What --run-id or --pathspec names; changing tags needs one of them."""
    run_id, pathspec = place["run_id"], place["pathspec"]
    if (run_id is None) == (pathspec is None):
        raise click.UsageError("Say whose tags: --run-id ID or --pathspec RUN/step[/task[/artifact]].")
    parts = (run_id or pathspec or "").removeprefix(f"{this.name}/").split("/", 3)
    kinds = (Run, Step, Task, DataArtifact)
    if run_id is not None and len(parts) > 1:
        raise click.UsageError(f"{run_id or pathspec!r} is not of the form RUN/step[/task[/artifact]].")
    with wrong_usage(InvalidPathspec):
        return kinds[len(parts) - 1]("/".join([this.name, *parts]))


def _list(
    this: FlowFile,
    *,
    all: bool,  # the option's name
    my_runs: bool,
    flat: bool,
    group_by_tag: bool,
    group_by_run: bool,
    hide_system_tags: bool,
    **place: str | None,
) -> None:
    if sum((flat, group_by_tag, group_by_run)) > 1:
        raise click.UsageError("Give one of --flat, --group-by-tag and --group-by-run.")
    found = {
        each.pathspec: _shown(each, hide_system_tags) for each in _objects(this, place, everybody=all, mine=my_runs)
    }
    if group_by_tag or (flat and len(found) > 1):
        by_tag: dict[str, list[str]] = {}
        for pathspec, tags in found.items():
            for each in tags:
                by_tag.setdefault(each, []).append(pathspec)
        _print(dict(sorted(by_tag.items())) if flat else by_tag, flat=flat)
    else:
        _print({"": next(iter(found.values()))} if len(found) == 1 and not group_by_run else found, flat=flat)


def _objects(this: FlowFile, place: Mapping[str, str | None], *, everybody: bool, mine: bool) -> list[Any]:
    if place["run_id"] or place["pathspec"]:
        if everybody or mine:
            raise click.UsageError("Give --all or --my-runs, or name one run.")
        return [_find(this, place)]
    with context.within(_namespace(everybody=everybody, mine=mine)):
        if this.name not in Flows():
            raise NotFound(f"There is no run of {this.name} in the namespace {context.get_namespace()!r}.")
        flow = Flow(this.name)
        return list(flow) if everybody or mine else [flow.latest_run]


def _namespace(*, everybody: bool, mine: bool) -> str | None:
    if everybody:
        return None
    return f"user:{context.username()}" if mine else context.get_namespace()


def _shown(found: Any, hide_system_tags: bool) -> list[str]:
    return sorted(found.user_tags if hide_system_tags else found.tags)


def _print(groups: Mapping[str, Iterable[str]], *, flat: bool) -> None:
    for head, members in groups.items():
        if head:
            click.echo(one_line(head))
        for member in () if flat and head else members:
            click.echo(f"  {one_line(member)}" if head else one_line(member))
