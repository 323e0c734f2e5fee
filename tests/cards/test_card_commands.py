"""`python flow.py card view | get | list | server`."""

from __future__ import annotations

import json
import signal
import urllib.request

import pytest

from support.cli import Script
from support.flows import FOREACH, flow_source


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """F/1, whose start has two cards, and whose two bodies have one each."""
    folder = tmp_path_factory.mktemp("cards")
    start = '@card(type="blank", id="first", options={"title": "One"})\n@card(id="second")\nself.xs = [1, 2]'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWSTORE_HOME", str(folder / "home"))
        patch.setenv("FLOWSTORE_USER", "tester")
        script = Script(folder, flow_source(FOREACH, start=start, body='@card(type="blank")'))
        script("run", "--max-workers", "1")
    return script


def listed(script, *words):
    """The cards that `card list --as-json` prints."""
    return [(row["pathspec"], row["id"]) for row in json.loads(script("card", "list", *words, "--as-json").stdout)]


def test_list(script):
    """Of the latest run, a run, a step or a task; by id, type or hash; as a table, as JSON, in a file."""
    start = [("F/1/start/1", "first"), ("F/1/start/1", "second")]
    bodies = [("F/1/body/2", None), ("F/1/body/3", None)]
    assert listed(script) == listed(script, "1") == listed(script, "latest") == start + bodies
    assert listed(script, "start") == listed(script, "1/start") == listed(script, "F/1/start/1") == start
    assert listed(script, "--type", "default") == start[1:]
    assert listed(script, "--id", "first") == start[:1]
    assert listed(script, "end") == []
    script("card", "list", "body", "--file", "list.json")
    rows = json.loads((script.folder / "list.json").read_text())
    assert [row["pathspec"] for row in rows] == ["F/1/body/2", "F/1/body/3"]
    assert listed(script, "body", "--hash", rows[1]["hash"][:8]) in (bodies, bodies[1:])
    table = script("card", "list", "1/start").stdout.splitlines()
    assert table[0].split() == ["pathspec", "number", "type", "id", "hash", "updated_at"]
    assert script("card", "list", "end").stderr == "There are no cards.\n"


def test_get(script):
    """To stdout or a file; of several, one has to be chosen."""
    assert "<h1>One</h1>" in script("card", "get", "1/start", "--id", "first").stdout
    script("card", "get", "start", "out.html", "--type", "default")
    assert "task 1 of F/1" in (script.folder / "out.html").read_text("utf-8")
    several = script("card", "get", "start", expect=1).stderr
    assert "start has 2 cards. Choose one with --id, --type or --hash:" in several
    assert "F/1/start/1: blank id first hash" in several
    assert "has no card with id 'x'" in script("card", "get", "start", "--id", "x", expect=1).stderr
    assert "1/end has no card." in script("card", "view", "1/end", expect=1).stderr
    script("card", "get", expect=2)
    assert "F has no step 'strat'. Did you mean 'start'?" in script("card", "get", "strat", expect=2).stderr
    assert "'F/1' does not address a step or a task" in script("card", "get", "1", expect=2).stderr


def test_view(script):
    """A file is handed to the browser."""
    (script.folder / "browse").write_text('#!/bin/sh\necho "$1" > opened\n')
    (script.folder / "browse").chmod(0o755)
    script("card", "view", "start", "--id", "first", BROWSER=f"{script.folder}/browse %s")
    opened = (script.folder / "opened").read_text().strip()
    assert opened.startswith("file:///")
    assert "<h1>One</h1>" in urllib.request.urlopen(opened).read().decode()


def test_server(script):
    """It prints an address with a token, which leads to the cards of the latest run; afterwards there is one file."""
    with script.start("card", "server", "--port", "0", "--no-browser", "--max-cards", "3") as process:
        url = process.stdout.readline().decode().strip()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        page = opener.open(url).read().decode()
        assert page.count("<iframe") == 3
        assert 'data-every="5"' in page
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert "There is no run F/99" in script("card", "server", "--run-id", "99", "--no-browser", expect=1).stderr
    script.check()
