"""People who deploy, and what came of it."""

from __future__ import annotations

import contextlib
import json
import re

import flowstore
from flowstore.production import deploy
from flowstore.store import opening
from support.flows import LINEAR, flow_source

PLAIN = flow_source(LINEAR, start="print('sees', current.namespace, flush=True)")
FACTS = flow_source(
    LINEAR,
    members="alpha = Parameter('alpha', default=0.5)\nfast = Parameter('fast', is_flag=True)",
    start="""
        names = ("username", "namespace", "is_production", "project_name", "branch_name", "project_flow_name")
        self.facts = {name: getattr(current, name) for name in names}
        self.tags = sorted(current.tags)
        """,
)


class Person:
    """Somebody who calls a flow's command line: with a name and a home of their own."""

    def __init__(self, script, name):
        self.script = script
        self.name = name
        self.home = script.folder / f"home of {name}"
        self.environment = {"FLOWSTORE_USER": name, "FLOWSTORE_HOME": str(self.home)}

    def __call__(self, *args, expect=0, **environment):
        return self.script(*args, expect=expect, **self.environment, **environment)

    def deploy(self, *args, before=(), expect=0):
        """Deploy; gives the token that is told."""
        told = self(*before, "deploy", "create", *args, expect=expect)
        return re.search(r"^Production token: +(\S+)", told.stdout, re.MULTILINE)[1] if expect == 0 else told

    def flowstore(self, *args):
        """The command `flowstore`."""
        return self.script.flowstore(*args, **self.environment)

    def tokens(self):
        """The tokens this person holds, whatever the store."""
        files = sorted((self.home / "tokens").glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        stores = [scopes for file in files for scopes in json.loads(file.read_text()).values()]
        return {scope: token for scopes in stores for scope, token in scopes.items()}


@contextlib.contextmanager
def unchanged(script):
    """Not one byte of the store changes meanwhile."""
    before = script.db.read_bytes() if script.db.exists() else None
    yield
    assert (script.db.read_bytes() if script.db.exists() else None) == before


def tags_of(script, run_id):
    return set(script.sql("select tag from object_tags where kind = 'run' and run_id = ?", run_id))


def active(script):
    """The deployments in force, as the scheduler gets them."""
    flowstore.use_store(script.db)
    return deploy.deployments(opening.open_store(script.db))


def one_message(result, *words):
    """What stderr says is one message, with these words in it."""
    assert len(re.findall(r"^Error: ", result.stderr, re.MULTILINE)) == 1
    for word in words:
        assert word in result.stderr
    return result.stderr
