"""A flow's own `__init__`, and `F()` where the command line is not the flow's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.flows import FOREACH, LINEAR, MIDDLE, flow_source

METHODS = [["--start-method", "fork"], ["--start-method", "spawn"], ["--start-method", "fork", "--reuse-workers"]]
IDS = ["fork", "spawn", "reuse"]

INIT = """
n = Parameter("n", default=3)

def __init__(self, use_cli=True):
    self.before = ["before"]
    self.twice = 2 * getattr(type(self), "SCALE", 1)
    super().__init__(use_cli=use_cli)
    self.after = self.n + 1
    self.lock = __import__("threading").Lock()
"""
SEEN = "assert not self.lock.locked(); self.{0} = [self.before[:], self.twice, self.after]"


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_what_init_sets_is_there_in_steps(flow, method):
    """It is read in every step, stored, and changed by steps like any artifact; what can't be stored is made anew."""
    script = flow(
        flow_source(
            MIDDLE,
            members=INIT,
            start=SEEN.format("a") + "; self.before.append('start')",
            middle=SEEN.format("b") + "; self.twice = 99",
            end=SEEN.format("c"),
        )
    )
    script("run", "--n", 5, *method)
    data = script.client().data
    assert (data.a, data.b, data.c) == (
        [["before"], 2, 6],
        [["before", "start"], 2, 6],
        [["before", "start"], 99, 6],
    )
    assert (data.before, data.twice, data.after) == (["before", "start"], 99, 6)
    assert "lock" not in data
    assert script.sql("select step, name from artifact_values where name in ('after', 'twice') order by 1, 2") == [
        ("middle", "twice"),
        ("start", "after"),
        ("start", "twice"),
    ]


@pytest.mark.parametrize("merged", [True, False])
def test_what_init_sets_in_a_join(flow, merged):
    """A join has the first values, unless it carries over what the branches made of them."""
    join = "self.merge_artifacts(inputs, include=['twice'])" if merged else "assert inputs[0].twice == 7"
    script = flow(
        flow_source(FOREACH, members=INIT, start="self.xs = [1, 2]", body="self.twice = 7", join=join + "\nself.after")
    )
    script("run")
    data = script.client().data
    assert (data.twice, data.after, data.before) == (7 if merged else 2, 4, ["before"])


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_a_first_value_can_be_deleted(flow, method):
    """After `del`, neither this step nor those that follow have it, as with any artifact, until one sets it again."""
    script = flow(
        flow_source(
            MIDDLE,
            members=INIT,
            start="del self.before, self.lock\nassert not hasattr(self, 'before')",
            middle="self.had = [hasattr(self, name) for name in ('before', 'lock', 'twice')]\ndel self.twice",
            end="self.has = [hasattr(self, name) for name in ('before', 'lock', 'twice')]\nself.twice = 7",
        )
    )
    script("run", *method)
    data = script.client().data
    assert (data.had, data.has, data.twice) == ([False, False, True], [False] * 3, 7)
    assert "before" not in script.client().data
    assert "twice" not in script.client()["middle"].task.data


def test_an_init_of_a_base_class_runs(flow):
    """A mixin's `__init__` runs, with the flow's own class attributes."""
    head = "class Base(FlowSpec):\n    def __init__(self):\n        self.x = self.SIZE\n        super().__init__()\n"
    script = flow(flow_source(LINEAR, head=head, members="SIZE = 3").replace("class F(FlowSpec)", "class F(Base)"))
    script("run")
    assert script.client().data.x == 3


def test_an_object_without_the_command_line(flow):
    """`F(use_cli=False)` makes an object and runs nothing."""
    source = flow_source(LINEAR, members=INIT).replace("    F()\n", "    print(F(use_cli=False).before)\n")
    script = flow(source.replace("self.after = self.n + 1", "pass"))
    assert script("run").stdout == "['before']\n"


BAD = {
    "arguments": ("def __init__(self, url, *, size):\n    super().__init__()", "has to be given url, size"),
    "raises": ("def __init__(self):\n    super().__init__()\n    {}['key']", "F.__init__ raised KeyError: 'key'"),
    "exits": ("def __init__(self):\n    super().__init__()\n    sys.exit(3)", "F.__init__ raised SystemExit: 3"),
    "reads": ("def __init__(self):\n    super().__init__()\n    self.y = self.x", "has no artifact 'x'"),
    "assigns": (
        "P = Parameter('P', default=1)\ndef __init__(self):\n    super().__init__()\n    self.P = 2",
        "parameter",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_an_init_that_cannot_run_in_a_task(flow, case):
    """One message with its line says so, by `check` and before a run exists."""
    members, message = BAD[case]
    call = "F('x', size=1)" if case == "arguments" else "F()"
    script = flow(flow_source(LINEAR, members=members).replace("    F()\n", f"    {call}\n"))
    for command in ("check", "run"):
        said = script(command, expect=1).stderr
        assert message in said
        assert "flow.py:" in said
        assert "Traceback" not in said
    assert not script.db.exists()


def test_an_init_that_raises_in_a_task(flow):
    """The task fails with the user's own traceback."""
    members = "def __init__(self):\n    super().__init__()\n    assert not current.run_id, 'in a task'"
    script = flow(flow_source(LINEAR, members=members))
    said = script("run", expect=1).stdout
    assert "AssertionError: in a task" in said
    assert "flowstore/" not in said


HOSTED = flow_source(LINEAR).replace('\n\nif __name__ == "__main__":\n    F()\n', "")
CELL = "made = F(); print(type(made).__name__, made.name)"


def run(folder, *words, expect=0):
    """Run `python WORDS`; gives what it printed, stderr after stdout."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST")}
    ran = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == expect, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def told_once(said, *facts):
    """One line says that nothing ran, and how to run the flow."""
    [line] = [line for line in said.splitlines() if "ran nothing" in line]
    for fact in ("F() made an object", "run: python", *facts):
        assert fact in line.replace("run it:", "run:").replace("run that:", "run:")
    assert "No such option" not in said
    assert "Traceback" not in said


def test_in_a_notebook(flow):
    """`F()` in a cell makes an object, and says how to run the flow; the kernel's arguments are not read."""
    script = flow("")
    kernel = "import linecache, sys\nsys.argv = ['/site-packages/ipykernel_launcher.py', '-f', 'kernel-1.json']\n"
    script.rewrite(f"{kernel}exec(compile({HOSTED + CELL!r}, '<cell>', 'exec'), globals())")
    said = run(script.folder, "-c", script.file.read_text())
    assert "F F\n" in said
    told_once(said, "a notebook", "python flow.py run")
    assert not script.db.exists()


def test_in_ipython(flow):
    """A real IPython shell, where it is installed; `%run flow.py run` there does run the flow."""
    pytest.importorskip("IPython")
    script = flow(HOSTED + '\n\nif __name__ == "__main__":\n    F()\n')
    told_once(run(script.folder, "-m", "IPython", "--no-banner", "-c", f"{HOSTED}\n{CELL}"), "a notebook")
    assert not script.db.exists()
    run(script.folder, "-m", "IPython", "-c", "%run flow.py run --start-method spawn")
    assert script.sql("select status from run_summary") == ["successful"]


@pytest.mark.parametrize("where", ["in a test", "while it is collected"])
def test_under_pytest(flow, where):
    """`F()` in a test makes an object; pytest's arguments are not read."""
    script = flow("")
    test = f"def test_it():\n    {CELL}\n" if where == "in a test" else f"{CELL}\ndef test_it(): pass\n"
    (script.folder / "test_it.py").write_text(HOSTED + "\n" + test)
    said = run(script.folder, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "test_it.py")
    assert "1 passed" in said
    told_once(said, "this is pytest", "python test_it.py run")


def test_under_unittest(flow):
    """The same in a test case of the standard library."""
    script = flow("")
    case = f"import unittest\nclass T(unittest.TestCase):\n    def test_it(self):\n        {CELL}\n"
    (script.folder / "test_it.py").write_text(HOSTED + "\n" + case)
    told_once(run(script.folder, "-m", "unittest", "test_it"), "this is unittest")


def test_a_flow_that_a_test_starts(flow):
    """`python flow.py run` in a test runs, whatever pytest has put into the environment, and imports pytest itself."""
    script = flow(flow_source(LINEAR, head="import pytest, _pytest.config"))
    script("run")
    assert script.client().successful
