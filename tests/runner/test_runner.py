"""`Runner`: a flow's file, run from Python."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap

import pytest

from flowstore import FlowstoreError, ParameterError, Runner, use_store
from flowstore.cli.flow.deploy import create
from flowstore.cli.flow.flow_file import SETTINGS
from flowstore.cli.flow.run import resume, run
from flowstore.runner import words
from support.flows import LINEAR, flow_source

MEMBERS = """
    alpha = Parameter("alpha", type=int, required=True)
    debug = Parameter("debug", is_flag=True, default=True)
    options = Parameter("the-options", type=JSONType, default=None)
    parts = Parameter("parts", separator=",", default="a")
"""
SLOW = "print('one', flush=True); print('two'); Path('here').touch(); time.sleep(60)"


@pytest.fixture
def script(flow):
    """A flow that prints, and fails where it is asked to."""
    body = """
        print("alpha is", self.alpha)
        assert self.alpha < 13, "unlucky"
        self.where, self.mode = os.getcwd(), os.environ.get("MODE")
    """
    return flow(flow_source(LINEAR, members=MEMBERS, start=body))


def test_a_run_and_its_results(script, capfd):
    """`run` waits, passes values as they are, shows the output, and leads to the run; the files are gone afterwards."""
    given = {"alpha": 3, "debug": False, "the_options": {"a": [1, None]}, "parts": ["x", "y,z"]}
    with Runner("flow.py", env={"MODE": "test"}).run(tags=["one", "two"], max_workers=1, **given) as running:
        assert (running.status, running.returncode) == ("successful", 0)
        assert running.run.pathspec == "F/1"
    data = running.run.data
    assert (data.alpha, data.debug, data.options, data.parts) == (3, False, {"a": [1, None]}, ["x", "y,z"])
    assert (data.where, data.mode) == (str(script.folder), "test")
    assert running.run.user_tags == {"one", "two"}
    assert "alpha is 3" in running.stdout
    assert "successful" in running.stderr
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == (running.stdout, running.stderr)
    assert repr(running) == "<ExecutingRun F/1: successful>"


def test_a_failed_run_is_resumed(script, capfd):
    """A run that fails is returned like any other; `resume` takes over from it, in another folder's store too."""
    runner = Runner("flow.py", show_output=False, store="other.db")
    failed = runner.run(alpha=13)
    assert (failed.status, failed.returncode, failed.run.status) == ("failed", 1, "failed")
    assert "unlucky" in failed.stdout
    again = runner.resume("start", origin_run_id=1, tags="again")
    assert (again.run.origin_run_id, again.run.user_tags) == ("1", {"again"})
    assert capfd.readouterr() == ("", "")
    assert not script.db.exists()
    runner.cleanup()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Missing option '--alpha'"),
        ({"alpha": "x"}, "Parameter alpha: 'x' is not an int."),
        ({"alpha": 1, "alhpa": 2}, "'alhpa' is no parameter of F, nor an option. Did you mean 'alpha'?"),
        ({"alpha": 1, "max_workers": 0}, "'--max-workers'"),
    ],
    ids=["missing", "of another type", "unknown", "a wrong option"],
)
def test_wrong_values(script, arguments, message):
    """A value that does not fit is one error with the command line's message, and no run."""
    with pytest.raises(ParameterError) as raised:
        Runner("flow.py", show_output=False).run(**arguments)
    assert message in str(raised.value)
    assert "Usage:" not in str(raised.value)
    assert not script.db.exists()


def test_wrong_use(script):
    """A missing file, an unknown option, and nothing to resume are errors that say so."""
    with pytest.raises(FileNotFoundError, match=r"There is no flow's file at /.*/nothing\.py\."):
        Runner("nothing.py")
    with pytest.raises(ParameterError, match=r"Runner has no option 'show_ouput'. Did you mean 'show_output'\?"):
        Runner("flow.py", show_ouput=False)
    with pytest.raises(ParameterError, match=r"Runner has no option 'quite'. Did you mean 'quiet'\?"):
        Runner("flow.py", quite=True)
    with pytest.raises(FlowstoreError, match=r"'max_worker' is no parameter of F.*Did you mean 'max_workers'"):
        Runner("flow.py", show_output=False).run(max_worker=3)
    with pytest.raises(FlowstoreError, match="tester has no run of F to resume"):
        Runner("flow.py", show_output=False, pylint=False).resume()


def test_the_store_of_this_process(script):
    """A run goes to the store that is active here; in another folder, to that folder's."""
    Runner("flow.py", show_output=False, store="chosen.db").run(alpha=1)
    use_store("chosen.db")
    assert Runner("flow.py", show_output=False).run(alpha=2).run.pathspec == "F/2"
    (script.folder / "below").mkdir()
    elsewhere = Runner("flow.py", show_output=False, cwd="below").run(alpha=2)
    assert elsewhere.run.pathspec == "F/1"
    assert elsewhere.run.data.where == str(script.folder / "below")


def test_a_run_in_the_background(flow):
    """`async_run` returns once the run exists; its lines arrive as they are printed; `wait` stops it in time."""
    script = flow(flow_source(LINEAR, start=SLOW))

    async def follow():
        with await Runner("flow.py").async_run() as running:
            lines = aiter(running.stream_log("stdout"))
            first = [await anext(lines) for _ in range(2)]
            assert (running.status, running.returncode, running.run.status) == ("running", None, "running")
            while not (script.folder / "here").exists():  # noqa: ASYNC110  # a task makes it
                await asyncio.sleep(0.01)
            assert await running.wait(timeout=0, stream="stdout") is running
            rest = [line async for _, line in running.stream_log("stdout", position=first[0][0])]
        with pytest.raises(ValueError, match="There is no log 'output'"):
            await anext(running.stream_log("output"))
        return running, first, rest

    running, first, rest = asyncio.run(follow())
    assert (running.status, running.returncode, running.run.status) == ("timeout", 143, "stopped")
    assert first[0][1].endswith("Task is starting.")
    assert rest[0] == first[1][1]
    assert rest[0].endswith("] one")
    assert rest[1].endswith("] two")


def test_many_at_once(script, capsys):
    """Several runs go on side by side; `wait` prints a log."""

    async def all_of_them():
        runner = Runner("flow.py", show_output=False)
        async with runner:
            started = [await runner.async_run(alpha=alpha) for alpha in range(3)]
            return [await running.wait(stream="stdout") for running in started]

    ended = asyncio.run(all_of_them())
    assert [running.run.data.alpha for running in ended] == [0, 1, 2]
    printed = capsys.readouterr().out
    assert [f"alpha is {alpha}" in printed for alpha in range(3)] == [True] * 3


def test_tasks_learn_nothing_of_the_program(flow):
    """A task that starts a flow itself does not answer for the run that it is in."""
    inner = "subprocess.run([sys.executable, 'flow.py', 'run', '--depth', '1'], check=True)"
    head = "import subprocess\n"
    members = "depth = Parameter('depth', default=0)"
    flow(flow_source(LINEAR, head=head, members=members, end=f"if not self.depth: {inner}"))
    running = Runner("flow.py", show_output=False).run()
    assert running.run.pathspec == "F/1"
    assert running.run.data.depth == 0


@pytest.mark.long
def test_ctrl_c_stops_the_run(flow):
    """Ctrl-C in the program that waits stops the run, whether a terminal sends it to both or a notebook to one."""
    script = flow(flow_source(LINEAR, start=SLOW))
    program = "from flowstore import Runner\nRunner('flow.py').run()"
    with subprocess.Popen([sys.executable, "-c", program], cwd=script.folder, stderr=subprocess.PIPE) as process:
        while not (script.folder / "here").exists():
            assert process.poll() is None
        process.send_signal(2)
        _, error = process.communicate()
    assert b"KeyboardInterrupt" in error
    assert script.sql("select status from run_summary") == ["stopped"]


def test_arguments_are_the_options_of_the_command_line():
    """Each option of the command line has a name in Python, and no other is passed on."""
    settings = {option.opts[0] for setting in SETTINGS for option in setting.options}
    assert set(words.SETTINGS.values()) == settings
    of_run = {option.opts[0] for option in run.params} - {option.opts[0] for option in create.params}
    assert of_run - settings <= set(words.RUN_OPTIONS.values())
    assert {option.opts[0] for option in resume.params} - settings <= {
        *words.RUN_OPTIONS.values(), "--origin-run-id", "step",
    }  # fmt: skip


def test_values_that_json_lacks(flow):
    """NumPy's numbers and arrays, paths and sets are passed on as what they hold."""
    numpy = pytest.importorskip("numpy")
    members = """
        n = Parameter("n", type=int)
        xs = Parameter("xs", type=JSONType)
        path = Parameter("path", type=str)
        mode = Parameter("mode", default="fast")
    """
    script = flow(flow_source(LINEAR, members=members))
    with Runner("flow.py", show_output=False).run(
        n=numpy.int64(3), xs=numpy.eye(2), path=script.folder, mode="slow"
    ) as running:
        data = running.run.data
    assert (data.n, data.xs, data.path, data.mode) == (3, [[1, 0], [0, 1]], os.fspath(script.folder), "slow")


def test_in_a_program(tmp_path):
    """A program with a `Runner` and its flow's file need no store beforehand, and leave one file."""
    (tmp_path / "flow.py").write_text(flow_source(LINEAR, start="self.x = 5"), "utf-8")
    program = """
        from flowstore import Runner
        with Runner("flow.py", show_output=False).run() as running:
            print(running.run.data.x)
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=True, text=True)
    assert ran.stdout == "5\n"
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != "") == ["flow.py", "flowstore.db"]
