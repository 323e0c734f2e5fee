"""People who deploy, and deployments that were made once for all tests."""

from __future__ import annotations

import shutil

import pytest

from support.cli import Script
from support.flows import LINEAR, flow_source
from support.production import PLAIN, Person
from support.scheduling import HOURLY, date_back


@pytest.fixture
def anne_and_will(flow):
    """Two people, and a flow that both can deploy."""

    def write(source=PLAIN):
        script = flow(source)
        return Person(script, "anne"), Person(script, "will")

    return write


@pytest.fixture(scope="module")
def first_deployment(tmp_path_factory):
    """A folder in which anne has deployed the plain flow, and the token."""
    anne = Person(Script(tmp_path_factory.mktemp("deployed"), PLAIN), "anne")
    return anne.script.folder, anne.deploy()


@pytest.fixture
def deployed(anne_and_will, first_deployment):
    """Anne, who has deployed the plain flow, will, and the token."""
    people = anne_and_will()
    folder, token = first_deployment
    shutil.copytree(folder, people[0].script.folder, dirs_exist_ok=True)
    return *people, token


@pytest.fixture(scope="module")
def deployments(tmp_path_factory):
    """What was deployed for earlier tests, each with its home, by source: most tests have the same flow."""
    made = {}

    def find(source):
        if source not in made:
            made[source] = Script(tmp_path_factory.mktemp("deployed"), source)
            made[source]("deploy", "create", FLOWSTORE_HOME=str(made[source].folder / "home"), FLOWSTORE_USER="tester")
        return made[source].folder

    return find


@pytest.fixture
def scheduled(flow, deployments):
    """Deploy a flow with a schedule, at a given time; gives its script."""

    def make(schedule=HOURLY, at="2025-06-01T12:10", **bodies):
        script = flow(flow_source(LINEAR, head=schedule, **bodies))
        shutil.copytree(deployments(script.file.read_text()), script.folder, dirs_exist_ok=True)
        date_back(script.db, at)
        return script

    return make
