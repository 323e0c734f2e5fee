"""Keyword arguments as a command line: which are options of a flow's command line, and which are parameters."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from flowstore.errors import ParameterError
from flowstore.text import did_you_mean

SETTINGS: Mapping[str, str] = {
    "quiet": "--quiet",
    "durable": "--durable",
    "production": "--production",
    "store": "--store",
    "namespace": "--namespace",
    "branch": "--branch",
    "decospecs": "--with",
    "trigger": "--trigger",
    "config": "--config",
    "config_value": "--config-value",
}
RUN_OPTIONS: Mapping[str, str] = {
    "tags": "--tag",
    "decospecs": "--with",
    "namespace": "--namespace",
    "user_namespace": "--namespace",
    "max_workers": "--max-workers",
    "max_num_splits": "--max-num-splits",
    "run_id_file": "--run-id-file",
    "executor": "--executor",
    "executor_options": "--executor-option",
    "reuse_workers": "--reuse-workers",
    "package_suffixes": "--package-suffixes",
    "start_method": "--start-method",
}
OPTIONS: dict[str, Mapping[str, str]] = {
    "run": RUN_OPTIONS,
    "resume": {**RUN_OPTIONS, "origin_run_id": "--origin-run-id"},
    "spin": {
        "tags": "--tag",
        "decospecs": "--with",
        "namespace": "--namespace",
        "persist": "--persist",
        "artifacts_module": "--artifacts-module",
        "skip_decorators": "--skip-decorators",
        "spin_pathspec": "--spin-pathspec",
    },
}
_CREATE = {
    "tags": "--tag",
    "decospecs": "--with",
    "namespace": "--namespace",
    "authorize": "--authorize",
    "generate_new_token": "--generate-new-token",
    "executor": "--executor",
    "executor_options": "--executor-option",
    "package_suffixes": "--package-suffixes",
}
OPTIONS |= {
    "deploy create": _CREATE,
    "step-functions create": {
        **_CREATE,
        "name": "--name",
        "role": "--role",
        "scheduler_role": "--scheduler-role",
        "max_workers": "--max-workers",
        "heartbeat": "--heartbeat",
        "steps": "--steps",
    },
}
# Metaflow has these, and nothing here depends on them.
_WITHOUT_MEANING = frozenset({
    "metadata", "environment", "force_rebuild_environments", "datastore", "datastore_root", "pylint", "event_logger",
    "monitor", "local_config_file", "mode",
})  # fmt: skip
_WITHOUT_MEANING_AFTER = frozenset({"max_log_size", "runner_attribute_file"})  # the others may be names of parameters


def settings(options: Mapping[str, Any], owner: str) -> list[str]:
    """Return what stands before the command.

    Raises:
        ParameterError: one of the options does not exist.
    """
    known = [*SETTINGS, "package_suffixes"]
    for name in options:
        if name not in known and name not in _WITHOUT_MEANING:
            raise no_option(
                owner, name, ["show_output", "env", "base_dir" if owner.startswith("NB") else "cwd", *known]
            )
    words: list[str] = []
    for name in ("config", "config_value"):
        for config, value in _pairs(options.get(name)):
            words += [SETTINGS[name], config, value if isinstance(value, str) else text(value)]
    others = {name: value for name, value in options.items() if name in SETTINGS and not name.startswith("config")}
    return [*words, *_words(SETTINGS, others)]


def no_option(owner: str, name: str, known: Iterable[str]) -> ParameterError:
    """Return the error of an option that does not exist."""
    return ParameterError(f"{owner} has no option {name!r}.{did_you_mean(name, [*known])} It has: {', '.join(known)}.")


def split(arguments: Mapping[str, Any], known: Mapping[str, str]) -> tuple[list[str], dict[str, Any]]:
    """Return the options among some arguments as words, and the others, which are values of parameters."""
    given = {
        name: value for name, value in arguments.items() if value is not None and name not in _WITHOUT_MEANING_AFTER
    }
    return _words(known, given), {name: value for name, value in given.items() if name not in known}


def _words(known: Mapping[str, str], options: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        option = known.get(name)
        if not option or value is None or value is False:
            continue
        if value is True:
            words.append(option)
        elif isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
            words += [f"{option}={text(item)}" for item in value]
        else:
            words.append(f"{option}={text(value)}")
    return words


def text(value: Any) -> str:
    """Return a value as a command line gives it."""
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    to_dict = getattr(value, "to_dict", None)
    return json.dumps(value if to_dict is None else to_dict())


def _pairs(value: Any) -> list[tuple[str, Any]]:
    """Return names and values from a dict, or a list of pairs."""
    if value is None:
        return []
    return [*value.items()] if isinstance(value, Mapping) else [*value]
