"""`@exit_hook`: functions that are called at the end of a run."""

from __future__ import annotations

import pytest

from flowstore import GraphError, exit_hook

HOOKED = """
from flowstore import FlowSpec, exit_hook, step

def well():
    print("went well")

def badly(run):
    print(run.pathspec, run.status, [task.successful for step in run for task in step])

def broken():
    raise OSError("of the hook")

@exit_hook(on_success=[broken, well], on_error=[badly])
class F(FlowSpec):
    @step
    def start(self):
        import os
        assert "FAIL" not in os.environ
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    F()
"""


def test_functions_are_called_at_the_end(flow):
    """Those for a success or those for a failure, with the run where they take it; their errors change nothing."""
    script = flow(HOOKED)
    with script.start("run", "--quiet") as process:
        stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (0, b"went well\n")
    assert b"OSError: of the hook" in stderr
    assert script("run", "--quiet", expect=1, FAIL="1").stdout.endswith("F/2 failed [False]\n")


def test_lists_of_functions_are_asked_for():
    """Anything else is refused where it is written."""
    with pytest.raises(GraphError, match="on_error must be a list of functions"):
        exit_hook(on_error=print)
