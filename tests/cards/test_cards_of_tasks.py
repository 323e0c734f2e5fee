"""Cards of tasks: what a step makes with `@card` and `current.card`, however its processes start."""

from __future__ import annotations

import time

import pytest

from flowstore.cards import get_cards
from support.flows import FOREACH, LINEAR, MEND, MIDDLE, every_method, flow_source

USING = "from flowstore.cards import *\n"
OWN = """
from flowstore.cards import FlowstoreCard
class Greeting(FlowstoreCard):
    type = "greeting"
    ALLOW_USER_COMPONENTS = True
    def render(self, task):
        return f"<i>{self.options.get('name')} {task.data.x} {task.pathspec} {'|'.join(self.components)}</i>"
class Broken(FlowstoreCard):
    type = "broken"
    def render(self, task):
        raise ValueError("no & no")
class Slow(FlowstoreCard):
    type = "slow"
    def render(self, task):
        try:
            time.sleep(30)
        except Exception:
            return "it was caught"
class Live(FlowstoreCard):
    type = "live"
    RUNTIME_UPDATABLE = True
    def render(self, task):
        return "the end"
    def render_runtime(self, task, data):
        return f"now {data['user']}"
    def refresh(self, task, data):
        return {"seen": data["user"]}
"""


def cards(script, step="start", run_id=1, **options):
    """The cards of the newest task of a step."""
    return get_cards(script.client(run_id)[step].task, **options)


@every_method
def test_a_default_card_shows_the_task(options, flow):
    """Its address, parameters, artifacts with previews, code, and what was appended; text is never markup."""
    start = '@card\n"""Loads & prepares."""\ncurrent.card.append(Markdown("**bold** <b>"))\nself.x = "<script>"'
    script = flow(flow_source(LINEAR, head=USING, members="a = Parameter('a', default=0.25)", start=start))
    script("run", *options)
    [card] = cards(script)
    html = card.get()
    assert (card.type, card.id, card.number) == ("default", None, 0)
    for text in (
        "task 1 of F/1",
        "Loads &amp; prepares.",
        "0.25",
        "<strong>bold</strong> &lt;b&gt;",
        "&#x27;&lt;script",
    ):
        assert text in html, text
    assert '<span class="k">self</span>.x' in html
    assert "<script" not in html
    assert len(html) < 30_000
    assert len(cards(script, "end")) == 0


def test_a_step_may_have_several_cards(flow):
    """They are in the order of the source; each id has its own components, and types and ids choose."""
    start = """
    @card(type="blank", id="first", options={"title": "The <title>"})
    @card(type="blank", id="second")
    @card
    current.card["first"].append(Markdown("one"))
    current.card["second"].extend([Markdown("two"), ValueBox("Value", 3)])
    current.card.append(Markdown("three"))
    self.n = len(current.card["second"]), "second" in current.card, "third" in current.card
    """
    script = flow(flow_source(LINEAR, head=USING, start=start))
    script("run")
    listed = cards(script)
    assert [(card.type, card.id) for card in listed] == [("blank", "first"), ("blank", "second"), ("default", None)]
    assert [text in card.get() for card, text in zip(listed, ("one", "two", "three"), strict=True)] == [True] * 3
    assert "three" not in listed[0].get()
    assert "<h1>The &lt;title&gt;</h1>" in listed[0].get()
    assert [card.id for card in cards(script, type="blank")] == ["first", "second"]
    assert [card.number for card in cards(script, id="second")] == [1]
    assert script.client().data.n == (2, True, False)


def test_the_default_editable_card(flow):
    """The only card, else the customized one, else the only one without an id; else one line says what to do."""
    add = 'current.card.append(Markdown("here it is"))'
    steps = {
        "start": '@card(id="a", type="blank")\n' + add,
        "a": '@card(id="a", type="blank")\n@card(id="b", type="blank", customize=True)\n@card(type="blank")\n' + add,
        "b": '@card(id="a", type="blank")\n@card(type="blank")\n' + add,
        "end": '@card(type="blank")\n@card(type="blank")\n' + add,
    }
    tails = {"start": "self.next(self.a)", "a": "self.next(self.b)", "b": "self.next(self.end)", "end": ""}
    script = flow(flow_source(tails, head=USING, **steps))
    printed = script("run").stdout
    having = {step: ["here it is" in card.get() for card in cards(script, step)] for step in steps}
    assert having == {"start": [True], "a": [False, True, False], "b": [False, True], "end": [False, False]}
    assert printed.count("current.card.append had no effect, since several cards of the step take components") == 1


def test_what_is_not_there_is_said_and_harms_nothing(flow):
    """An unknown id of a card or a component, a card that takes no components, a component that can't be rendered."""
    start = """
    @card
    current.card["nope"].append(Markdown("lost"))
    current.card.components["nope"].update("lost")
    current.card.append(Image(b"no picture"))
    current.card.append(object())
    """
    script = flow(flow_source(LINEAR, head=USING, start=start))
    printed = script("run").stdout
    assert "the step has no card with the id 'nope'" in printed
    assert "there is no component with the id 'nope'" in printed
    assert "a component could not be rendered" in printed
    html = cards(script)[0].get()
    assert "Image could not be rendered" in html
    assert "object object" in html


def test_a_step_without_a_card_has_no_current_card(flow):
    """The error says what to write; `hasattr` and `in` answer no."""
    script = flow(
        flow_source(LINEAR, start="self.has = hasattr(current, 'card'), 'card' in current", end="current.card")
    )
    assert "There is no current.card, since step end has no @card." in script("run", expect=1).stdout
    assert script.client()["start"].task.data.has == (False, False)


def test_with_card_adds_one_to_every_step(flow):
    """Also beside those that a step has."""
    script = flow(flow_source(FOREACH, start="@card(id='own')\nself.xs = [1, 2]"))
    script("run", "--with", "card:type=blank,id=added")
    assert {step: [card.id for card in cards(script, step)] for step in FOREACH} == {
        "start": ["own", "added"], "body": ["added"], "join": ["added"], "end": ["added"],
    }  # fmt: skip


@every_method
def test_types_of_your_own(options, flow):
    """A class in the flow's own file is found by its type, gets options and components, and sees the task's data."""
    start = '@card(type="greeting", options={"name": "Ada"})\ncurrent.card.append(Markdown("part"))\nself.x = 5'
    script = flow(flow_source(LINEAR, head=USING + OWN, start=start))
    script("run", *options)
    [card] = cards(script)
    assert card.get() == '<i>Ada 5 F/1/start/1 <div class="markdown"><p>part</p></div></i>'


@every_method
def test_a_card_that_fails_never_fails_its_task(options, flow):
    """The error is in the log and, unless that is off, in the place of the card; the others are made."""
    start = """
    @card(type="broken")
    @card(type="broken", id="quiet", save_errors=False)
    @card(type="slow", timeout=0.2)
    @card(type="blank", id="fine")
    """
    script = flow(flow_source(LINEAR, head=OWN, start=start))
    printed = script("run", *options).stdout
    broken, slow, fine = cards(script)
    assert "ValueError: no &amp; no" in broken.get()
    assert "longer than the card&#x27;s timeout of 0.2 s" in slow.get()
    assert (fine.id, "could not be rendered" in fine.get()) == ("fine", False)
    assert printed.count("the card 'broken' with the id 'quiet' could not be rendered. The task goes on.") == 1
    assert printed.count("the card 'slow' could not be rendered") == 1


def test_a_timeout_of_the_step_leaves_its_cards_their_time(flow):
    """The step may use its time up, and the card its own."""
    head = OWN.replace("time.sleep(30)", "time.sleep(0.3); return 'in time'")
    script = flow(flow_source(LINEAR, head=head, start='@timeout(seconds=1)\n@card(type="slow", timeout=5)'))
    script("run")
    assert cards(script)[0].get() == "in time"


@pytest.mark.parametrize(
    ("decorator", "message"),
    [
        ("@card(type='defalt')", "Did you mean 'default'?"),
        ("@card(timeout='long')", "@card: timeout must be a number"),
        ("@card(options=3)", "@card: options must be a dict"),
        ("@card(id='x')\n@card(id='x')", "two cards with the id 'x'"),
        ("@card(kind='blank')", "@card has no option kind"),
    ],
)
def test_mistakes_are_found_before_a_run_exists(decorator, message, flow):
    """In decorators and in `--with`; there is no run then."""
    script = flow(flow_source(LINEAR, start=decorator))
    with script.start("run") as process:
        _, errors = process.communicate()
    assert message in errors.decode()
    assert process.returncode != 0
    assert not script.db.exists()


def test_mistakes_in_with_are_wrong_usage(flow):
    """Exit code 2, for a type as for an option."""
    script = flow(flow_source(LINEAR))
    assert "There is no type of card 'x'" in script("run", "--with", "card:type=x", expect=2).stderr
    assert "card" in script("run", "--with", "card:kind=x", expect=2).stderr


LIVE = """
@card(type="live")
@card(type="blank", id="b")
current.card["b"].append(ProgressBar(label="Training"), id="bar")
current.card["b"].append(Markdown("large " * 50_000))
for n in range(1, 4):
    current.card["b"].components["bar"].update(n)
    current.card["b"].refresh(force=True)
    current.card.get(type="live")[0].refresh(n, force=True)
Path("refreshed").touch()
deadline = time.monotonic() + 20
while not Path("seen").exists() and time.monotonic() < deadline: time.sleep(0.01)
"""


@every_method
def test_a_card_is_seen_while_its_task_runs(options, flow):
    """The store has the newest state; at the end the card is rendered again, and nothing of earlier states is left."""
    script = flow(flow_source(LINEAR, head=USING + OWN, start=LIVE))
    with script.start("run", *options) as process:
        deadline = time.monotonic() + 15
        while not (script.db.exists() and script.sql("select count(*) from cards") == [2]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        while "3 of 100" not in (html := cards(script)[1].get()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert "Training" in html
        assert cards(script)[0].get() == "now 3"
        assert cards(script)[0].get_data()["data"] == {"seen": 3}
        (script.folder / "seen").touch()
        assert process.wait() == 0
    live, blank = cards(script)
    assert (live.get(), live.get_data()["data"]) == ("the end", {"seen": 3})
    assert "3 of 100" in blank.get()
    assert script.sql("select count(*) from blobs where codec = 'html'") == [2]


def test_the_last_state_is_seen_though_it_came_soon_after_another(flow):
    """A step that refreshes twice and then works on for long need not call again; nor is a child of it held up."""
    start = """
    @card(type="blank")
    import os
    text = Markdown("one")
    current.card.append(text)
    for state in ("two", "three", "four"):
        text.update(f"state {state}")
        current.card.refresh()
    child = os.fork()
    if child == 0:
        current.card.refresh()
        os._exit(0)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 20
    while not Path("seen").exists() and time.monotonic() < deadline: time.sleep(0.01)
    self.late = not Path("seen").exists()
    """
    script = flow(flow_source(LINEAR, head=USING, start=start))
    with script.start("run") as process:
        deadline = time.monotonic() + 15
        while not (script.db.exists() and script.sql("select count(*) from cards") == [1]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        while "state four" not in cards(script)[0].get():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (script.folder / "seen").touch()
        assert process.wait() == 0
    assert script.client(1)["start"].task.data.late is False


def test_a_task_that_fails_keeps_what_it_showed_last(flow):
    """Also what was not written yet; without a refresh there is no card."""
    start = """
    @card(type="blank", id="shown")
    @card(type="blank", id="unseen")
    current.card["shown"].append(Markdown("first"))
    current.card["shown"].refresh()
    current.card["shown"].append(Markdown("second"))
    current.card["shown"].refresh()
    raise ValueError("boom")
    """
    script = flow(flow_source(LINEAR, head=USING, start=start))
    script("run", expect=1)
    [card] = cards(script)
    assert (card.id, "first" in card.get(), "second" in card.get()) == ("shown", True, True)


def test_each_attempt_has_its_own_cards(flow):
    """Those of the last one are the task's."""
    start = '@card\n@retry(times=1, minutes_between_retries=0)\nself.x = f"try {current.retry_count}"\n' + MEND
    start = start.replace(MEND, "current.card.refresh()\nif current.retry_count == 0: raise ValueError('again')")
    script = flow(flow_source(LINEAR, start=start))
    script("run")
    from flowstore import Task

    script.client()
    assert "try 1" in cards(script)[0].get()
    assert "attempt 2" in cards(script)[0].get()
    assert "try 0" in get_cards(Task("F/1/start/1", attempt=0))[0].get()


def test_a_reused_task_shows_the_cards_of_its_origin(flow):
    """Unless that is not wanted."""
    script = flow(flow_source(MIDDLE, head=USING, start="@card\nself.x = 'kept'", middle=MEND))
    script("run", expect=1)
    (script.folder / "mended").touch()
    script("resume")
    [card] = cards(script, run_id=2)
    assert card.get() == cards(script)[0].get()
    assert card.hash == cards(script)[0].hash
    assert len(cards(script, run_id=2, follow_resumed=False)) == 0
    assert len(cards(script, follow_resumed=False)) == 1


def test_a_large_card_travels_as_large_artifacts_do(flow):
    """A card of several megabytes, in the report and as a state of a running task."""
    start = '@card(type="blank")\ncurrent.card.append(Markdown("x" * 3_000_000))\ncurrent.card.refresh()'
    script = flow(flow_source(LINEAR, head=USING, start=start))
    script("run")
    assert len(cards(script)[0].get()) > 3_000_000


def test_looking_at_an_artifact_does_not_store_it_again(flow):
    """A card that reads what the task inherits, or changes what it set, leaves the artifacts as they are."""
    head = OWN.replace('return f"<i>', 'task.data.x.append(7); return f"<i>')
    body = '@card(type="greeting")\nself.y = 1'
    script = flow(flow_source(MIDDLE, head=head, start="self.x = [1]", middle=body))
    script("run")
    assert "[1, 7]" in cards(script, "middle")[0].get()
    assert script.client().data.x == [1]
    assert script.sql("select step from artifact_values where name = 'x'") == ["start"]


def test_types_of_installed_packages(flow, tmp_path):
    """An entry point names one, which is imported when a card of it is rendered; a broken one is an error card."""
    (tmp_path / "cards_of_somebody.py").write_text(
        "from flowstore.cards import MetaflowCard\n"
        "class Shiny(MetaflowCard):\n    type = 'shiny'\n    def render(self, task):\n        return 'it shines'\n"
    )
    folder = tmp_path / "somebody-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[flowstore.cards]\nshiny = cards_of_somebody:Shiny\nbroken = cards_of_nobody:Broken\n"
    )
    script = flow(flow_source(LINEAR, start='@card(type="shiny")\n@card(type="broken")'))
    script("run")
    shiny, broken = cards(script)
    assert shiny.get() == "it shines"
    assert "No module named &#x27;cards_of_nobody&#x27;" in broken.get()
