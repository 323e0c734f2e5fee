"""The settings and options that several `flowstore` commands share."""

from __future__ import annotations

import click

from flowstore import context
from flowstore.cli.app import STORE, STORE_PATH, Setting, completed_by

__all__ = ["FORM", "NAMESPACE", "STORE", "STORE_PATH", "STORE_UNUSED", "time_before", "with_raw", "with_tags"]


def _narrow(tag: str | None) -> None:
    context.namespace(tag or None)


STORE_UNUSED = Setting("store", (click.Option(["--store"], hidden=True),), apply=lambda _path: None)  # scripts pass it
NAMESPACE = Setting(
    "namespace",
    (
        click.Option(
            ["--namespace"],
            metavar="TAG",
            shell_complete=completed_by("namespaces"),
            help="Show only what has this tag.",
        ),
    ),
    apply=_narrow,
)
FORM = Setting(
    "form",
    (
        click.Option(["--json", "form"], flag_value="json", help="Print a list of JSON objects."),
        click.Option(["--csv", "form"], flag_value="csv", help="Print CSV."),
    ),
    default="table",
)

with_tags = click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="TAG",
    shell_complete=completed_by("tags"),
    help="Only runs with this tag; may be repeated.",
)
with_raw = click.option("--raw", is_flag=True, help="Keep control characters.")


def time_before(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Return the time that was 45m, 12h, 30d or 2w ago, in milliseconds since 1970."""
    from flowstore.errors import FlowstoreError
    from flowstore.store.run_pages import ms_ago

    try:
        return None if value is None else ms_ago(value)
    except FlowstoreError as error:
        raise click.BadParameter(str(error)) from error
