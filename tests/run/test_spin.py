"""`spin`: one step again, in the foreground, on the inputs that it had in an earlier run."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

import flowstore
from flowstore import NotFound, Runner, inspect_spin
from flowstore.cards import get_cards
from support.cli import read_terminal
from support.flows import BRANCH, FOREACH, GANG, LINEAR, MIDDLE, flow_source

NESTED = {
    "start": "self.next(self.outer, foreach='xs')",
    "outer": "self.next(self.inner, foreach='ys')",
    "inner": "self.next(self.join_inner)",
    "join_inner": "self.next(self.join_outer)",
    "join_outer": "self.next(self.end)",
    "end": "",
}
BODIES = {
    "start": "self.xs, self.model = ['a', 'b'], {'depth': 3}",
    "outer": "self.ys = [1, 2, 3]",
    "inner": """
        self.item = [frame[2] for frame in self.foreach_stack()]
        print('inner', self.item, self.alpha, self.limit)
    """,
    "join_inner": """
        self.merge_artifacts(inputs, include=['model'])
        self.all = [i.item for i in inputs]
        print('joined', self.all)
    """,
    "join_outer": "self.merge_artifacts(inputs, include=['model'])\nprint('model', self.model)",
}
MEMBERS = "alpha = Parameter('alpha', default=1)\nlimit = 7"


@pytest.fixture
def script(flow):
    """A flow with nested foreaches that has run once."""
    script = flow(flow_source(NESTED, members=MEMBERS, **BODIES))
    script("run", "--alpha", "5")
    return script


def unchanged(script):
    """Everything that is in the store."""
    tables = script.sql("select name from sqlite_master where type = 'table' and name not like 'sqlite_%' order by 1")
    return {table: sorted(map(repr, script.sql(f"select * from {table}"))) for table in tables}


def test_a_step(script):
    """A step has its inputs: parameters, constants, artifacts, items of foreaches, the tasks that it joins."""
    before = unchanged(script)
    assert "inner ['a', 1] 5 7\n" in script("spin", "inner").stdout
    assert "joined [['a', 1], ['a', 2], ['a', 3]]" in script("spin", "join_inner").stdout
    result = script("spin", "join_outer")
    assert result.stdout == "model {'depth': 3}\n"
    assert "Step join_outer runs on inputs of F/1." in result.stderr
    assert "Nothing was stored; to keep the result: --persist" in result.stderr
    assert unchanged(script) == before


def test_a_task(script):
    """A pathspec says whose inputs are taken: a task's, or those of the first task of the step in a run."""
    script("run", "--alpha", "6")
    task = next(task for task in script.client(1)["inner"] if task.data.item == ["b", 2])
    for address in (f"1/inner/{task.id}", f"F/1/inner/{task.id}"):
        assert "inner ['b', 2] 5 7" in script("spin", address).stdout
    assert "inner ['b', 2] 5 7" in script("spin", "inner", "--spin-pathspec", f"1/inner/{task.id}").stdout
    assert "inner ['a', 1] 5 7" in script("spin", "1/inner").stdout
    assert "inner ['a', 1] 6 7" in script("spin", "inner").stdout
    assert "inner ['a', 1] 6 7" in script("spin", "latest/inner", "--quiet").stdout


def test_the_code_as_it_is_now(script):
    """An edited step, one that failed, and one that is new are tried without running what comes before them."""
    tails = {**NESTED, "join_outer": "self.next(self.new)", "new": "self.next(self.end)"}
    bodies = {**BODIES, "join_outer": BODIES["join_outer"] + "\nself.y = 2", "new": "print('new', self.model)\n1 / 0"}
    script.rewrite(flow_source(tails, members=MEMBERS, **bodies))
    result = script.start("spin", "new")
    out, error = (text.decode() for text in result.communicate())
    assert result.returncode == 1
    assert "new {'depth': 3}" in out
    assert "ZeroDivisionError: division by zero" in error
    assert "Step new failed after" in error
    assert "self.y = 2" in script("spin", "join_outer").stderr


def test_stored_if_asked(script):
    """With `--persist` there is a run with the step's task and what leads to it; in nobody's namespace."""
    script.flowstore("sql", "select 1")
    result = script("spin", "join_inner", "--persist", "--tag", "trial")
    assert "The result is F/2/join_inner/" in result.stderr
    flowstore.use_store(script.db)
    assert flowstore.Flow("F").latest_run.id == "1"
    with pytest.raises(flowstore.NamespaceMismatch):
        flowstore.Run("F/2")
    inspect_spin(script.folder)
    assert flowstore.get_namespace() == "spin:tester"
    run = flowstore.Flow("F").latest_run
    assert (run.id, run.status, run.origin_run_id, run.user_tags) == ("2", "successful", "1", {"trial"})
    assert run["join_inner"].task.data.all == [["a", 1], ["a", 2], ["a", 3]]
    assert {step.id: len(list(step)) for step in run} == {"start": 1, "outer": 1, "inner": 3, "join_inner": 1}
    assert run["inner"].task.origin_pathspec.startswith("F/1/inner/")
    script.flowstore("check", "--deep")
    script("spin", "outer")
    assert "takes over nothing" not in script("resume", "end").stderr
    assert flowstore.open_store(script.db, namespace=None).run("F/3").origin_run_id == "1"


def test_a_failure_is_stored_if_asked(flow):
    """A failed step is kept with its error and with what it has set; a large value, too."""
    body = "import random\nself.x = random.Random(1).randbytes(1 << 20)\n1 / 0"
    script = flow(flow_source(LINEAR, start="pass"))
    script("run")
    script.rewrite(flow_source(LINEAR, end=body))
    with script.start("spin", "end", "--persist") as process:
        process.communicate()
    assert process.returncode == 1
    inspect_spin(script.folder)
    task = flowstore.Flow("F").latest_run["end"].task
    assert (task.status, task.exception.type, len(task.data.x)) == ("failed", "builtins.ZeroDivisionError", 1 << 20)


@pytest.mark.parametrize("step", ["body", "join", "start"])
def test_other_inputs(flow, step):
    """A file of Python replaces inputs: inherited artifacts, parameters, those of joined tasks."""
    tails = {**FOREACH, "join": "self.next(self.end)"}
    look = "print(self.alpha, getattr(self, 'model', None))"
    bodies = {
        "start": f"self.xs = [1, 2]\n{look}\nself.model = {{'depth': 3}}",
        "body": look,
        "join": "self.merge_artifacts(inputs, include=['model'])\nprint(self.alpha, self.model)",
    }
    script = flow(flow_source(tails, members="alpha = Parameter('alpha', default=1)", **bodies))
    script("run")
    (script.folder / "other.py").write_text("ARTIFACTS = {'model': {'depth': 4}, 'alpha': 9, 'big': bytes(1 << 20)}")
    assert "9 {'depth': 4}" in script("spin", step, "--artifacts-module", "other.py").stdout
    result = script("spin", step, "--artifacts-module", "other.py", "--persist")
    assert "9 {'depth': 4}" in result.stdout
    assert "the step inherits no artifact 'big'" in result.stderr
    assert "'alpha'" not in result.stderr
    inspect_spin(script.folder)
    data = flowstore.Flow("F").latest_run[step].task.data
    assert (len(data.big), data.model["depth"]) == (1 << 20, 3 if step == "start" else 4)


def test_decorators(flow):
    """`@catch`, `@environment` and cards work as ever; a retry would hide an error, so there is one attempt."""
    marks = "@catch(var='error')\n@retry(times=3)\n@environment(vars={'MODE': 'test'})\n"
    body = f"{marks}print(os.environ.get('MODE'))\n1 / 0"
    script = flow(flow_source(MIDDLE, middle=body, start="@card\nself.x = 1"))
    script("run")
    result = script.start("spin", "middle")
    out, _ = result.communicate()
    assert (result.returncode, out) == (0, b"test\n")
    result = script.start("spin", "middle", "--skip-decorators")
    out, _ = result.communicate()
    assert (result.returncode, out) == (1, b"None\n")
    script("spin", "start", "--persist")
    inspect_spin(script.folder)
    assert len(get_cards(flowstore.Flow("F").latest_run["start"].task)) == 1


REFUSED = {
    "unknown step": (["strat"], 2, "There is no step 'strat'. Did you mean 'start'? The steps are: start, end."),
    "no task": (["1/start/99"], 1, "There is no task"),
    "no run": (["7/start"], 1, "There is no run"),
    "another step": (["end", "--spin-pathspec", "1/start/1"], 2, "is of step start, not of end."),
    "no pathspec": (["start", "--spin-pathspec", "start"], 2, "neither a step, nor RUN/STEP, nor RUN/STEP/TASK"),
    "no module": (["start", "--artifacts-module", "none.py"], 2, "none.py: there is no such file."),
    "no ARTIFACTS": (["start", "--artifacts-module", "flow.py"], 2, "defines no dict ARTIFACTS"),
    "a namespace": (["start", "--namespace", "user:nobody"], 1, "No run of F in the namespace user:nobody has inputs"),
}


@pytest.mark.parametrize(("words", "code", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(flow, words, code, message):
    """A step or task that is not there is one message."""
    script = flow(flow_source(LINEAR))
    script("run")
    assert message in script("spin", *words, expect=code).stderr.replace("\n", " ")


def test_nothing_to_take(flow):
    """Without a store, or where nothing has got as far, it says so."""
    script = flow(flow_source(MIDDLE, start="1 / 0"))
    assert "No store found" in script("spin", "middle", expect=1).stderr
    script("run", expect=1)
    assert "has inputs for step middle in" in script("spin", "middle", expect=1).stderr
    assert "Run F/1 has no inputs" in script("spin", "1/middle", expect=1).stderr


@pytest.mark.parametrize("tails", [BRANCH, GANG], ids=["branch", "gang"])
def test_branches_and_gangs(flow, tails):
    """Steps of a branch, its join, and members of a gang."""
    name = "a" if "a" in tails else "body"
    mark = "@parallel\n" if name == "body" else ""
    bodies = {name: f"{mark}self.x = 1\nprint('x', current.parallel and current.parallel.num_nodes)"}
    script = flow(flow_source(tails, join="print('join', len(inputs))", **bodies))
    script("run")
    assert "x " in script("spin", name).stdout
    assert script("spin", "join").stdout == "join 2\n"
    script("spin", "join", "--persist")


def test_configs(flow):
    """The values are those of the run, unless others are given."""
    members = "config = Config('config', default='config.json')"
    script = flow(flow_source(LINEAR, members=members, end="@timeout(seconds=config.s)\nprint('s is', self.config.s)"))
    (script.folder / "config.json").write_text('{"s": 50}')
    script("run")
    (script.folder / "config.json").unlink()
    assert script("spin", "end").stdout == "s is 50\n"
    assert script("--config-value", "config", '{"s": 60}', "spin", "end").stdout == "s is 60\n"


def test_from_python(flow):
    """`Runner.spin` returns the task where it is stored; else there is only its output."""
    flow(flow_source(LINEAR, start="self.model = 'kmeans'\nprint('trained')"))
    runner = Runner("flow.py", show_output=False)
    runner.run()
    with runner.spin("start") as spun:
        assert (spun.status, spun.stdout) == ("successful", "trained\n")
        with pytest.raises(NotFound, match="persist=True"):
            _ = spun.task
    with runner.spin("start", persist=True) as spun:
        assert spun.task["model"].data == "kmeans"
    with pytest.raises(flowstore.ParameterError, match="There is no step 'strat'"):
        runner.spin("strat")


@pytest.mark.parametrize("words", [["end"], ["end", "--persist"]], ids=" ".join)
def test_secrets_are_hidden(flow, words):
    """As in a run: also where another process prints them, letter by letter, in errors, and before a crash."""
    values = {"TOKEN": "s3cret-value", "OTHER": "another-value"}
    mark = f"@secrets(sources=[{{'type': 'inline', 'options': {{'env_vars': {values}}}}}])\n"
    printing = (
        "for letter in os.environ['TOKEN']: print(letter, end='', flush=True)\n"
        "print()\nos.system('echo $OTHER; echo $TOKEN >&2')\nself.kept = os.environ['TOKEN']"
    )
    script = flow(flow_source(LINEAR, end=mark + printing))
    script("run")
    result = script("spin", *words)
    assert result.stdout == "***\n***\n"
    assert [line for line in result.stderr.splitlines() if "***" in line] == ["***", "  self.kept = '***'"]
    assert not any(value in result.stdout + result.stderr for value in values.values())
    script.rewrite(
        flow_source(LINEAR, end=f"{mark}print('a', os.environ['TOKEN'], flush=True)\nos.kill(os.getpid(), 9)")
    )
    result = script("spin", *words, expect=-9)
    assert result.stdout == "a ***\n"


def test_ctrl_c(flow):
    """Ctrl-C ends the step, and the exit code says so."""
    script = flow(flow_source(LINEAR))
    script("run")
    script.rewrite(flow_source(LINEAR, end="Path('here').touch()\ntime.sleep(60)"))
    with script.start("spin", "end") as process:
        while not (script.folder / "here").exists():
            assert process.poll() is None
        process.send_signal(2)
        _, error = process.communicate()
    assert process.returncode == 130, error


def test_breakpoint_and_input(flow):
    """In a terminal, `breakpoint()` opens the debugger, and `input()` waits for an answer."""
    body = "x = 41\nbreakpoint()\nname = input('Who? ')\nprint('hello', name, x)"
    script = flow(flow_source(LINEAR, end=body))
    script("run", timeout=60, expect=1)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "dumb"}
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    command = [sys.executable, "flow.py", "spin", "end"]
    with subprocess.Popen(command, cwd=script.folder, env=environment, start_new_session=True, **streams) as process:
        os.close(theirs)
        shown = ""
        for prompt, answer in (("(Pdb) ", "x = x + 1"), ("(Pdb) ", "c"), ("Who? ", "anne")):
            while not shown.endswith(prompt):
                data = read_terminal(ours)
                assert data, shown
                shown += data.decode()
            os.write(ours, f"{answer}\n".encode())
            shown += "\n"
        while data := read_terminal(ours):
            shown += data.decode()
    os.close(ours)
    assert process.returncode == 0, shown
    assert "hello anne 42" in shown
