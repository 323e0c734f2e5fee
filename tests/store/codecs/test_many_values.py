"""Values that people keep: set, read, merged, shown, got, exported, imported; equal and of the same type."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import flowstore
from support.cli import Script, command
from support.values import VALUES, wrong

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore:the matrix subclass")]
TESTS = str(Path(__file__).parents[2])
SOURCE = """
import sys
sys.path.insert(0, {tests!r})
from flowstore import FlowSpec, step
from support import values

class F(FlowSpec):
    @step
    def start(self):
        for name in values.VALUES:
            setattr(self, name, values.make(name))
        self.next(self.left, self.right)

    @step
    def left(self):
        self.wrong_left = values.wrong(lambda name: getattr(self, name))
        self.next(self.join)

    @step
    def right(self):
        self.next(self.join)

    @step
    def join(self, inputs):
        figures = [name for name, source in values.VALUES.items() if "figure()" in source]  # looking changes them
        self.merge_artifacts(inputs, exclude=figures)
        for name in figures:
            setattr(self, name, getattr(inputs.right, name))
        self.next(self.end)

    @step
    def end(self):
        self.wrong_end = values.wrong(lambda name: getattr(self, name))

if __name__ == "__main__":
    F()
"""


def test_there_are_enough_values():
    """Of the standard library, NumPy, pandas, polars, pyarrow, scikit-learn, PIL and matplotlib."""
    assert len(VALUES) >= 250


def ran(folder, *options):
    script = Script(folder, SOURCE.format(tests=TESTS))
    script("run", *options, timeout=500, PYTHONWARNINGS="ignore")
    return script


def found(run):
    """What differs: in the next step, after the join, and in this process, which has no flow file."""
    task = run.end_task
    return task["wrong_left"].data, task["wrong_end"].data, wrong(lambda name: task[name].data)


@pytest.mark.parametrize(
    "options", [(), ("--start-method", "spawn"), ("--reuse-workers",)], ids=["fork", "spawn", "reuse"]
)
@pytest.mark.quick("fork")
def test_values_are_the_same_wherever_they_are_read(options, tmp_path):
    """In the next step, merged in a join, and in another process without the flow file."""
    script = ran(tmp_path, *options)
    script.file.unlink()
    flowstore.use_store(script.db)
    assert found(flowstore.Run("F/1")) == ([], [], [])
    if not options:
        shown_exported_and_imported(tmp_path)


def shown_exported_and_imported(folder):
    """All of it once more, after `show`, `export` and `import`; in each form all is written, or it is refused."""
    shown = command("show", "F/1/start", "--store", folder / "flowstore.db").stdout
    assert shown
    command("export", folder / "out.db", "--store", folder / "flowstore.db")
    (folder / "other").mkdir()
    command("import", folder / "out.db", "--store", folder / "other" / "flowstore.db")
    flowstore.use_store(folder / "other" / "flowstore.db", trust=True)
    flowstore.namespace(None)
    assert wrong(lambda name: flowstore.Run("F/1").end_task[name].data) == []
    task = flowstore.Run("F/1").end_task.pathspec
    for name in list(VALUES)[:: 1 if os.environ.get("FLOWSTORE_ALL_FORMS") else 8]:
        written = [
            got(folder, f"{task}/{name}", form) for form in ("json", "npy", "csv", "parquet", "pkl", "txt", "png")
        ]
        assert True in written or "None" in VALUES[name], VALUES[name]


def got(folder, pathspec, form):
    """Whether a form was written; what was refused says why in one message."""
    target = folder / f"got.{form}"
    target.unlink(missing_ok=True)
    try:
        command("get", pathspec, "-o", target, "--store", folder / "flowstore.db")
    except AssertionError as error:
        assert "Traceback" not in str(error)  # noqa: PT017  # the harness says how the command ended
        assert not target.exists()
        return False
    assert target.exists()
    return True
