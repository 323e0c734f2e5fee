"""Events start the deployments that wait for them, each once, whatever dies when."""

from __future__ import annotations

import collections
import functools
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

import flowstore
from flowstore.errors import FlowstoreError, GraphError, ParameterError, StoreCorrupt
from flowstore.production import deploy, events
from flowstore.store import deployments, opening
from flowstore.store import events as rows
from flowstore.store.events import Claim
from support.cli import Script, command
from support.flows import LINEAR, flow_source
from support.triggering import EVENT, WAITING, kill_schedulers
from support.web import Browser


def decorated(source, *lines):
    """The source with lines above the class."""
    return source.replace("\nclass F(", "\n" + "\n".join(lines) + "\nclass F(")


def waiting_for(*lines, **bodies):
    """The source of a flow with decorators."""
    members = "size = Parameter('size', default=3)\nday = Parameter('day', default='none')"
    return decorated(flow_source(LINEAR, members=members, **bodies), *lines)


def scheduler(script, *, expect=0, **env):
    """`flowstore scheduler --once` on a script's store."""
    return command("scheduler", "--once", "--store", script.db, expect=expect, fresh=True, **env)


def every_run(script):
    """All runs, oldest first."""
    flowstore.use_store(script.db)
    flowstore.namespace(None)
    return [
        flowstore.Run(f"{flow}/{id_}") for flow, id_ in script.sql("select flow, run_id from run_summary order by 2")
    ]


# --- for real


def test_an_event_gives_parameters_their_values(flow):
    """Fields of the payload that are named like a parameter; the task and the Client see the event."""
    script = flow(waiting_for("@trigger(event='updated')", start="self.by = current.trigger.event.name"))
    script("deploy", "create")
    script.flowstore("event", "updated", "--payload", '{"size": 5, "day": "monday", "other": [1]}')
    script.flowstore("event", "another")
    said = scheduler(script).stderr
    assert "Waiting: F version 1, for event updated." in said
    [run] = every_run(script)
    assert (run.parameters, run.data.by) == ({"size": 5, "day": "monday"}, "updated")
    assert (run.trigger.event.type, run.trigger.event.payload["other"]) == ("event", [1])
    assert (run.trigger["updated"], [*run.trigger], run.trigger.run) == (run.trigger.event, ["updated"], None)
    assert "Started" not in scheduler(script).stderr
    hostile = r"<script>alert(1)</script>\u001b[31m"
    with closing(sqlite3.connect(script.db)) as db:
        db.execute("update runs set trigger_events = replace(trigger_events, 'updated', ?)", (hostile,))
        db.commit()
    shown = script.flowstore("show", "F/1", "--namespace", "").stdout
    assert "Started by event <script>alert(1)</script>.\n" in shown
    with closing(Browser(script.db)) as browser:
        assert "event &lt;script&gt;alert(1)&lt;/script&gt;" in browser.page("/run/F/1")


def test_a_flow_follows_another(flow, tmp_path):
    """A successful run of the deployment starts it, and its data are read; runs by hand and failed ones do not."""
    first = flow(flow_source(LINEAR, members="ok = Parameter('ok', default=True)", start="self.x = 7; assert self.ok"))
    follow = "self.x = current.trigger.run.data.x; self.run = current.trigger.run.pathspec"
    source = decorated(flow_source(LINEAR, start=follow), "@trigger_on_finish(flow='F')")
    (tmp_path / "second").mkdir()
    second = Script(tmp_path / "second", source.replace("class F(", "class G(").replace("    F()", "    G()"))
    first("deploy", "create")
    second("deploy", "create", "--store", first.db)
    first("run")
    first("deploy", "trigger", "--ok", "false", expect=1)
    assert "Started" not in scheduler(first).stderr
    first("deploy", "trigger")
    scheduler(first)
    *_, third, last = every_run(first)
    assert (third.pathspec, last.path_components[0]) == ("F/3", "G")
    assert (last.data.x, last.data.run, last.trigger["F"].pathspec, last.trigger.event.type) == (7, "F/3", "F/3", "run")
    assert second("deploy", "show", "--store", first.db).stdout.count("end of F") == 1


def test_what_cannot_be_started_is_given_up(flow):
    """A value that a parameter refuses makes no run: after a few attempts the event is used up, and a line says so."""
    script = flow(waiting_for("@trigger(event='updated')"))
    script("deploy", "create")
    script.flowstore("event", "updated", "--payload", '{"size": "many"}')
    script.flowstore("event", "updated", "--payload", '{"size": 2}')
    said = scheduler(script, expect=1).stderr
    assert "is not run by event updated: 3 attempts made no run" in said
    assert [run.parameters["size"] for run in every_run(script)] == [2]


@pytest.mark.long
def test_what_the_system_refuses_costs_no_event(flow):
    """A full disk, say: the event waits, and starts one run when there is room again."""
    script = flow(waiting_for("@trigger(event='updated')"))
    (script.folder / "large.bin").write_bytes(bytes(20 << 20))
    script("deploy", "create", "--package-suffixes", ".py,.bin")
    script.flowstore("event", "updated")
    largest = f"ulimit -f {16 << 10}; exec {sys.executable} -m flowstore scheduler --once --store {script.db}"
    said = subprocess.run(["bash", "-c", largest], capture_output=True, text=True, timeout=60, env=os.environ)
    assert "again in 5 s at the earliest" in said.stderr, said
    assert (said.returncode, script.sql("select event_id from event_marks")) == (1, [0])
    assert "Traceback" not in said.stderr
    scheduler(script)
    assert len(every_run(script)) == 1


def test_only_what_is_trusted_is_started(anne_and_will):
    """Somebody else's deployment waits until the store is trusted; one that was changed since never runs."""
    anne, will = anne_and_will(waiting_for("@trigger(event='updated')"))
    anne.deploy()
    anne.flowstore("event", "updated")
    assert "says it was made by anne" in scheduler(anne.script, **will.environment).stderr
    assert anne.script.sql("select event_id from event_marks") == [0]
    with closing(sqlite3.connect(anne.script.db)) as db:
        db.execute("update deployments set triggers = replace(triggers, 'updated', 'evil')")
        db.commit()
    anne.flowstore("event", "evil")
    assert "was changed after you made it" in scheduler(anne.script, **anne.environment).stderr
    with closing(sqlite3.connect(anne.script.db)) as db:
        db.execute("update deployments set triggers = replace(triggers, 'evil', 'updated')")
        db.commit()
    will.flowstore("trust", anne.script.db)
    scheduler(anne.script, **will.environment)
    assert len(every_run(anne.script)) == 1


def test_events_from_python(flow):
    """In a task too; `safe_publish` publishes nothing from a run that is no deployment's."""
    start = "Event('safe').safe_publish(); self.n = Event('made', {'a': 1}).add_to_payload('b', 2).publish({'c': 3})"
    script = flow(flow_source(LINEAR, start=start))
    script("run")
    assert script.sql("select name, payload from events") == [("made", '{"a": 1, "b": 2, "c": 3}')]
    assert script.client().data.n == "1"
    script("deploy", "create")
    script("deploy", "trigger")
    assert script.sql("select kind, name from events where id > 1 order by id")[:2] == [
        ("event", "safe"),
        ("event", "made"),
    ]
    flowstore.use_store(script.db)
    payloads = [{"x": object()}, {"x": float("nan")}, {1: 2}, {"x": "\ud800"}, 5]
    for wrong in ({"name": ""}, *({"payload": payload} for payload in payloads)):
        with pytest.raises(FlowstoreError):
            flowstore.Event(**{"name": "n", **wrong}).publish()
    for levels in (101, 100_000):
        deep = functools.reduce(lambda inner, _: [inner], range(levels), 1)
        with pytest.raises(FlowstoreError, match="payload of event n is nested more than 100 levels deep"):
            flowstore.Event("n", {"x": deep}).publish()
    assert flowstore.ArgoEvent("n", payload={"x": object()}).publish(ignore_errors=True) is None


def test_a_run_is_tried_out_as_if_another_had_started_it(flow):
    """`--trigger FLOW/RUN` before the command; a run that is not there starts nothing, and a resumed run keeps it."""
    script = flow(flow_source(LINEAR, start="self.x = current.trigger and current.trigger.run.pathspec"))
    script("run")
    script("--trigger", "F/1", "run")
    script("resume", "start", "--origin-run-id", "2")
    assert [run.data.x for run in every_run(script)] == [None, "F/1", "F/1"]
    assert "Started by end of run F/1.\n" in script.flowstore("show", "F/3").stdout
    assert "Started by" not in script.flowstore("show", "F/1").stdout
    assert "no run F/9" in script("--trigger", "F/9", "run", expect=1).stderr
    assert script.sql("select count(*) from runs") == [3]


def test_wrong_commands(flow):
    """A payload that is no object of JSON, and a name that is none."""
    script = flow(flow_source(LINEAR))
    script("run")
    assert "--payload" in script.flowstore("event", "x", "--payload", "[1]", expect=2).stderr
    assert "not JSON" in script.flowstore("event", "x", "--payload", "{", expect=2).stderr
    deep = f'{{"x": {"[" * 60_000}{"]" * 60_000}}}'
    assert "Traceback" not in script.flowstore("event", "x", "--payload", deep, expect=2).stderr
    assert "name of an event" in script.flowstore("event", "", expect=1).stderr
    assert script.sql("select count(*) from events") == [0]


@pytest.mark.parametrize("line", ["trigger(event=raising)", "trigger_on_finish(flow=raising)"])
def test_a_function_that_raises_deploys_nothing(flow, line):
    """The message says which, and what it raised."""
    script = flow(waiting_for("def raising(): return {}['day']", f"@{line}"))
    message = f"F: the function raising of @{line.partition('(')[0]} raised KeyError: 'day'."
    assert script("deploy", "create", expect=1).stderr.splitlines()[-1].startswith(f"Error: {message}")


def test_listings_say_what_starts_a_deployment(flow):
    """The command, the page, and what `deploy create` prints."""
    script = flow(waiting_for("@trigger(events=['a', 'b'])"))
    assert "Started on:            event a and event b" in script("deploy", "create").stdout
    [row] = script.rows("deployments")
    assert (row["triggers"], row["schedule"]) == ("event a and event b", None)
    with closing(Browser(script.db)) as browser:
        assert "event a and event b" in browser.page("/deployments")
        assert browser.json("/deployments.json")["deployments"][0]["triggers"] == row["triggers"]


_LISTS = ("5", "[5]", '[{"kind": "event"}]', '[{"kind": "run", "name": "F", "parameters": [1]}]')
DAMAGED = ["[]", "{", *(f'{{"conditions": {text}, "reset_at": null}}' for text in _LISTS)]


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_columns_are_one_clear_error(flow, text):
    """In whatever reads a deployment, and what started a run; `check --repair` empties what is no JSON."""
    script = flow(waiting_for("@trigger(event='a')"))
    script("deploy", "create")
    script("deploy", "trigger")
    recorded = {"[]": "[5]", "{": "{"}.get(text, f"[{text}]")
    with closing(sqlite3.connect(script.db)) as db:
        db.execute("update deployments set triggers = ?", (text,))
        db.execute("update runs set trigger_events = ?", (recorded,))
        db.commit()
    assert "Traceback" not in script.flowstore("deployments", expect=1).stderr
    with pytest.raises(StoreCorrupt):
        _ = every_run(script)[0].trigger
    shown = script.flowstore("show", "F/1", "--namespace", "").stdout
    assert "Started by an event that cannot be read, since that part of the store is damaged." in shown
    if text in {"[]", "{"}:
        assert "triggers" in script.flowstore("check", expect=1).stdout
        script.flowstore("check", "--repair")
        script.flowstore("deployments")


# --- once each


def test_two_runs_cannot_use_up_one_event(flow):
    """Of two processes that were started for one event, one makes a run."""
    script = flow(waiting_for("@trigger(event='updated')"))
    script("deploy", "create")
    script.flowstore("event", "updated")
    store = opening.open_store(script.db)
    [deployment] = deployments.active(store)
    claim = events.next_start(store, deployment, 0).claim
    assert (claim.mark, claim.ids) == (0, [1])
    assert deploy.trigger(store, deployment, quiet=True, claim=claim) == 0
    assert deploy.trigger(store, deployment, quiet=True, claim=Claim(deployment.id, 0, [1])) == 1
    store.close()
    assert script.sql("select count(*) from runs") == [1]


@pytest.mark.long
def test_schedulers_that_are_killed(flow):
    """Each event starts one run, at whatever moments schedulers die; `support.triggering` does this 100 times."""
    script = flow(WAITING)
    script("deploy", "create")
    assert kill_schedulers(script, 3) == collections.Counter(range(3))


# --- what starts when


class Waiting:
    """Deployments in a store, and the starts that events lead to."""

    def __init__(self, script):
        self.script = script
        self.store = opening.open_store(script.db)

    def publish(self, *names, payload=None, kind="event", minute=0):
        """Publish events, at a minute since 1970; return the last one's number."""
        for name in names:
            with self.store.write() as db:
                number = rows.publish(db, kind, name, payload or {}, "tester")
                db.execute("update events set published_at = ? where id = ?", (minute * 60_000, number))
        return number

    def starts(self):
        """All starts that are due, each as the numbers of its events, which are used up then."""
        [deployment] = deployments.active(self.store)
        found = []
        while start := events.next_start(self.store, deployment, rows.marks(self.store)[deployment.id]):
            with self.store.write() as db:
                start.claim.take(db)
            found.append([event.id for event in start.events])
        return found


@pytest.fixture
def deploys(flow):
    """Deploy a flow with decorators; gives the events and starts of its store."""
    made = []

    def make(*lines):
        script = flow(waiting_for(*lines))
        script("deploy", "create")
        made.append(Waiting(script))
        return made[-1]

    yield make
    for one in made:
        one.store.close()


def test_each_event_starts_one_run(deploys):
    """In the order in which they were published; others count for nothing."""
    waiting = deploys("@trigger(event='a')")
    waiting.publish("a", "b", "a", "a")
    assert waiting.starts() == [[1], [3], [4]]
    assert waiting.starts() == []


def test_of_several_events_all_must_come(deploys):
    """The newest of each counts, and after a start all must come again."""
    waiting = deploys("@trigger(events=['a', 'b'])")
    waiting.publish("a", "a", "b", "b", "a", "a")
    assert waiting.starts() == [[2, 3], [5, 4]]
    waiting.publish("b")
    assert waiting.starts() == [[6, 7]]
    waiting.publish("a", "a")
    assert waiting.starts() == []


def test_events_of_another_day_are_forgotten(deploys):
    """Where `reset_at` says so, at that minute of the day."""
    waiting = deploys("@trigger(events=['a', 'b'], options={'reset_at': {'hour': 2, 'minute': 30}})")
    waiting.publish("a", minute=149)
    waiting.publish("b", minute=150)
    assert waiting.starts() == []
    waiting.publish("a", minute=24 * 60 + 149)
    assert waiting.starts() == [[3, 2]]


def test_a_new_version_goes_on_where_the_last_one_was(deploys):
    """Events before the first deployment count for nothing, those that came before the second one do."""
    waiting = deploys("@trigger(event='b')")
    waiting.publish("a", "b")
    waiting.script("deploy", "create")
    assert waiting.starts() == [[2]]
    waiting.script("deploy", "delete")
    waiting.publish("b")
    waiting.script("deploy", "create")
    assert waiting.starts() == []


def test_what_came_while_no_version_waited_has_passed(deploys):
    """A version without `@trigger` lies between two that have one."""
    waiting = deploys("@trigger(event='b')")
    source = waiting.script.file.read_text()
    waiting.script.rewrite(waiting_for())
    waiting.script("deploy", "create")
    waiting.publish("b")
    waiting.script.rewrite(source)
    waiting.script("deploy", "create")
    waiting.publish("b")
    assert waiting.starts() == [[2]]


def test_a_version_that_was_replaced_uses_up_no_event(deploys):
    """Its run that is on its way would be a second one, beside that of the new version."""
    waiting = deploys("@trigger(event='a')")
    waiting.publish("a")
    [replaced] = deployments.active(waiting.store)
    claim = events.next_start(waiting.store, replaced, 0).claim
    waiting.script("deploy", "create")
    with pytest.raises(FlowstoreError, match="a later version was deployed"), waiting.store.write() as db:
        claim.take(db)
    assert waiting.starts() == [[1]]


def test_runs_of_the_same_branch_count(deploys):
    """A project's branch is its own world, unless another one is named."""
    waiting = deploys(
        "@trigger_on_finish(flows=['A', 'p.prod.B', {'name': 'C', 'project': 'q'}])", "@project(name='p')"
    )
    mine, prod, other = (
        {"project": p, "branch": b} for p, b in (("p", "user.tester"), ("p", "prod"), ("q", "user.tester"))
    )
    for name, payload in (("A", prod), ("B", mine), ("C", mine), ("A", mine), ("B", prod), ("C", other)):
        waiting.publish(name, payload=payload, kind="run")
    waiting.publish("A", payload=mine)
    assert waiting.starts() == [[4, 5, 6]]


def test_fields_are_mapped(deploys):
    """With a mapping, only what it names; a list may hold names and pairs."""
    mapped = "{'name': 'a', 'parameters': ['day', ('size', 'how_many')]}"
    waiting = deploys(f"@trigger(events=[{mapped}, 'b'])")
    waiting.publish("a", payload={"day": "x", "how_many": 4, "size": 9})
    waiting.publish("b", payload={"other": 1})
    [deployment] = deployments.active(waiting.store)
    start = events.next_start(waiting.store, deployment, 0)
    parameters = deployments.parameters_of(waiting.store, deployment.id)
    assert events.values_of(deployment, start.events, parameters) == {"day": "x", "size": "4"}


MISTAKES = {
    "an unknown option": ("trigger", {"evnt": "a"}, "@trigger has no option evnt; it has: event, events, options."),
    "no name of a project": ("project", {}, "@project needs more options; it has: name."),
    "neither": ("trigger", {}, "@trigger needs either event or events"),
    "both": ("trigger", {"event": "a", "events": ["b"]}, "either event or events"),
    "no list": ("trigger", {"events": "a"}, "events is a list"),
    "no name": ("trigger", {"event": {"name": 5}}, "name of an event"),
    "a typo": ("trigger", {"event": {"nmae": "a"}}, "a dict of name and parameters"),
    "a mapping": ("trigger", {"event": {"name": "a", "parameters": {"x": 1}}}, "parameters and fields"),
    "no pairs": ("trigger", {"event": {"name": "a", "parameters": [5]}}, r"names that are both, not \[5\]"),
    "three": ("trigger", {"event": {"name": "a", "parameters": ["x", ("x", "y", "z")]}}, "names that are both"),
    "one text": ("trigger", {"event": {"name": "a", "parameters": "x"}}, "names that are both, not 'x'"),
    "an option": ("trigger", {"event": "a", "options": {"when": 1}}, "options is a dict"),
    "a time": ("trigger", {"event": "a", "options": {"reset_at": {"hour": 25}}}, "a time of the day"),
    "a flow": ("trigger_on_finish", {"flow": {"flow": "A"}}, "a flow is a name"),
}


@pytest.mark.parametrize(("decorator", "options", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_of_decorators(decorator, options, message):
    """One message names the decorator and what to write."""
    with pytest.raises(GraphError, match=message):
        getattr(flowstore, decorator)(**options)
    with pytest.raises(GraphError, match=f"@{decorator}: options are given by name, as in"):
        getattr(flowstore, decorator)("a")


def test_mistakes_are_found_when_deploying(flow):
    """A mapping to a parameter that is not there, and one event twice; a function is called to name an event."""
    script = flow(waiting_for("@trigger(event={'name': 'a', 'parameters': {'sise': 'x'}})"))
    assert "the parameter 'sise'" in script("deploy", "create", expect=1).stderr
    script.rewrite(waiting_for("@trigger(events=['a', {'name': 'a'}])"))
    assert "waits for a twice" in script("deploy", "create", expect=1).stderr
    script.rewrite(waiting_for("@trigger(event=lambda context: f'{context.flow_name}-done')"))
    assert "event F-done" in script("deploy", "create").stdout
    assert ParameterError is not GraphError
    assert json.loads(script.sql("select triggers from deployments")[0])["conditions"][0]["name"] == "F-done"
    assert EVENT in WAITING
