"""The options that Metaflow's command line has and flowstore's has not: they are accepted, and mean nothing here."""

from __future__ import annotations

import click

from flowstore.cli.app import Group

_VALUES = ("--metadata", "--environment", "--datastore", "--datastore-root", "--event-logger", "--monitor")
_FLAGS = ("--pylint/--no-pylint", "--not-quiet", "--force-rebuild-environments", "--coverage")


def add(group: Group) -> None:
    """Add the options to a flow's tree of commands, and have all of its options read from `$METAFLOW_…` as well."""
    group.params += [click.Option([name], hidden=True, expose_value=False) for name in _VALUES]
    group.params += [click.Option([name], is_flag=True, hidden=True, expose_value=False) for name in _FLAGS]
    group.params += [click.Option(["--package-suffixes"], multiple=True, hidden=True)]
    group.added = {command: [_max_log_size()] for command in ("run", "resume")}
    group.context_settings["auto_envvar_prefix"] = "METAFLOW"


def _max_log_size() -> click.Option:
    return click.Option(["--max-log-size"], type=int, hidden=True, expose_value=False)
