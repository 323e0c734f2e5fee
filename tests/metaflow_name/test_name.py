"""`python -m flowstore.metaflow flow.py`: a flow that says `from metaflow import …` runs as it is."""

from __future__ import annotations

import pytest

from flowstore import Flow, Run, namespace, open_store
from flowstore.store import queries
from support.sources import python, write

PLAIN = """
import metaflow as mf
from metaflow import FlowSpec, IncludeFile, Parameter, card, conda, conda_base, current, kubernetes, step
from metaflow.cards import Markdown
from metaflow.exception import MetaflowException

class OddError(MetaflowException):
    headline = "Odd"

@conda_base(python="3.11")
class Plain(FlowSpec):
    alpha = Parameter("alpha", default=0.5, help="a factor")

    @conda(libraries={"numpy": "1"})
    @card
    @step
    def start(self):
        self.numbers = [1, 2, 3]
        self.where = lambda: mf.current.run_id
        self.step_of_mine = type(self).end
        current.card.append(Markdown("# hello"))
        self.next(self.work, foreach="numbers")

    @kubernetes
    @step
    def work(self):
        self.product = self.input * self.alpha
        self.next(self.join)

    @step
    def join(self, inputs):
        self.total = sum(one.product for one in inputs)
        self.next(self.end)

    @step
    def end(self):
        import os
        if os.path.exists("failing"):
            raise OddError("on purpose")
        print("total", self.total)

if __name__ == "__main__":
    Plain()
"""
NAME = ("-m", "flowstore.metaflow")


@pytest.fixture
def folder(tmp_path):
    """A folder with the flow; the store that a test leaves there is sound."""
    (tmp_path / "plain.py").write_text(PLAIN)
    yield tmp_path
    python(tmp_path, "-m", "flowstore", "check", "--store", "flowstore.db")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_flow_runs_as_it_is(folder, method):
    """Parameters, a foreach, cards, and the Client's answers; options of Metaflow alone are accepted."""
    before = ["--datastore", "local", "--metadata=local", "--environment=conda", "--no-pylint", "--package-suffixes=.x"]
    text = python(folder, *NAME, "plain.py", *before, "run", "--alpha", "2", "--start-method", method)
    assert "total 12.0" in text
    assert "@conda, @conda_base, @kubernetes: flowstore has none of these" in text
    run = Run("Plain/1")
    assert run.successful
    assert run.data.total == 12
    assert [task.data.product for task in sorted(run["work"], key=lambda task: task.index)] == [2, 4, 6]


def test_what_is_stored_does_not_need_the_name(folder):
    """Functions of the flow's file, and what refers to a module by the name, are loaded by the plain Client."""
    python(folder, *NAME, "plain.py", "run")
    code = """
import sys
from flowstore import Run
data = Run("Plain/1")["start"].task.data
print(data.where(), data.step_of_mine.__name__, [name for name in sys.modules if name.endswith("metaflow")])
"""
    assert python(folder, "-c", code).splitlines()[-1] == "None end []"


def test_hints_use_the_same_command(folder):
    """The hint that says how to go on with a run has the form of the command that was used."""
    (folder / "failing").touch()
    text = python(folder, *NAME, "plain.py", "run", expect=1)
    assert "to go on: python -m flowstore.metaflow plain.py resume --origin-run-id 1" in text
    assert "OddError: on purpose" in text
    (folder / "failing").unlink()
    assert "total" in python(folder, *NAME, "plain.py", "resume")
    assert Run("Plain/2").origin_run_id == "1"


def test_environment_variables_of_metaflow_count(folder):
    """`$METAFLOW_USER`, `$METAFLOW_RUN_*` and those of options; flowstore's own come first."""
    variables = {"METAFLOW_RUN_ALPHA": "3", "METAFLOW_RUN_TAGS": "one two", "METAFLOW_DEFAULT_DATASTORE": "s3"}
    python(folder, *NAME, "plain.py", "--quiet", "run", METAFLOW_USER="anne", **variables)
    python(folder, *NAME, "plain.py", "--quiet", "run", FLOWSTORE_USER="will", METAFLOW_USER="anne")
    namespace(None)
    assert Run("Plain/1").data.total == 18
    assert Run("Plain/1").user_tags == {"one", "two"}
    assert [run.user for run in Flow("Plain")] == ["will", "tester"]


def test_a_module_of_a_package(folder):
    """`-m package.module`, with relative imports, spawned too; hints name it so."""
    write(folder, shop____init__="", shop__rates="RATE = 3\n")
    flow = PLAIN.replace("import metaflow as mf", "import metaflow as mf\nfrom .rates import RATE")
    (folder / "shop/plain.py").write_text(flow.replace("self.input *", "RATE * self.input *"))
    for method in ("fork", "spawn"):
        assert "total 9.0" in python(folder, *NAME, "-m", "shop.plain", "run", "--start-method", method)
    (folder / "failing").touch()
    text = python(folder, *NAME, "-m", "shop.plain", "run", expect=1)
    assert "to go on: python -m flowstore.metaflow -m shop.plain resume" in text


@pytest.mark.parametrize("module", [[], ["-m"]], ids=["script", "module"])
def test_a_deployment_runs_under_the_name(folder, module):
    """A deployment is triggered by whoever knows nothing of it, as it was deployed; so are runs that go on with it."""
    write(folder, shop____init__="")
    (folder / "shop/plain.py").write_text(PLAIN)
    program = ["-m", "shop.plain"] if module else ["plain.py"]
    text = python(folder, *NAME, *program, "deploy", "create")
    assert f"python -m flowstore.metaflow {' '.join(program)} deploy trigger" in text
    assert "total 3.0" in python(folder, *NAME, *program, "deploy", "trigger", METAFLOW_RUN_ALPHA="7")
    (folder / "failing").touch()
    text = python(folder, *NAME, *program, "deploy", "trigger", expect=1)
    assert f"to go on: python -m flowstore.metaflow {' '.join(program)} resume --origin-run-id 2" in text
    with open_store("flowstore.db", namespace=None) as store:
        assert queries.resume_command(store.run("Plain/2")._store, 2).startswith("python -m flowstore.metaflow ")
        deployed = store.sql("select launcher, count(*) as n from codes group by 1")
        assert [tuple(row.values()) for row in deployed] == [("flowstore.metaflow", 1)]
    (folder / "failing").unlink()
    namespace(None)
    assert "total 3.0" in python(folder, *NAME, *program, "resume", "--origin-run-id", "2")
    python(folder, "-m", "flowstore", "export", "copy.db", "Plain/1")
    python(folder, "-m", "flowstore", "check", "--deep", "--store", "copy.db")
    python(folder, "-m", "flowstore", "import", "copy.db", "--store", "new.db")


def test_wrong_usage_is_one_message(folder):
    """No file, no module, no arguments: exit code 2, and what is wrong."""
    python(folder, *NAME, "plain.py", "run", "--quiet")
    assert "missing.py: No such file" in python(folder, *NAME, "missing.py", "run", expect=2)
    assert "there is no such module" in python(folder, *NAME, "-m", "missing", expect=2)
    assert "Usage: python -m flowstore.metaflow FLOW.py" in python(folder, *NAME, expect=2)
    assert "Usage: python -m flowstore.metaflow FLOW.py" in python(folder, *NAME, "--help")
    (folder / "broken.py").write_text("import metaflow\n1 / 0\n")
    lines = python(folder, *NAME, "broken.py", expect=1).splitlines()
    assert "broken.py" in lines[1]
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_in_a_notebook_the_import_is_enough(folder):
    """After `import flowstore.metaflow` the name stands for flowstore; what it lacks is not looked for elsewhere."""
    python(folder, *NAME, "plain.py", "run", "--quiet")
    code = """
import flowstore.metaflow
import flowstore.metaflow.names, metaflow, flowstore
from metaflow import *
from metaflow import Flow, Metaflow, cards, get_metadata
from metaflow.client import Run
from metaflow import (
    Config, Deployer, FlowMutator, IncludeFile, JSONType, NBRunner, Runner, S3, StepMutator, conda_base, config_expr,
    exit_hook, kubernetes, parallel_map, profile, secrets, trigger, trigger_on_finish, user_step_decorator,
)
from metaflow.integrations import ArgoEvent
from metaflow.multicore_utils import parallel_imap_unordered
from metaflow.plugins.cards.card_modules.card import MetaflowCard
from metaflow.runner.metaflow_runner import Runner
from metaflow.metaflow_current import current
from metaflow.exception import MetaflowNotFound
assert metaflow.FlowSpec is flowstore.FlowSpec and Run is flowstore.Run and cards.Markdown
assert [flow.id for flow in Metaflow()] == [flow.id for flow in Metaflow().flows] == ["Plain"]
assert get_metadata().startswith("local@/")
for name, error in (("9", MetaflowNotFound), ("1", None)):
    try:
        Flow("Plain")[name]
    except error:
        pass
try:
    import metaflow.nothing
except ModuleNotFoundError as error:
    print(error)
try:
    S3()
except flowstore.FlowstoreError as error:
    print(error)
"""
    first, second = python(folder, "-c", code).splitlines()
    assert first.startswith("flowstore has no module metaflow.nothing")
    assert second == "flowstore has no S3. Use boto3.client('s3') instead."


def test_the_real_one_cannot_be_replaced(folder):
    """Where `metaflow` itself is imported already, one error says so."""
    python(folder, *NAME, "plain.py", "run", "--quiet")
    (folder / "metaflow.py").write_text("")
    text = python(folder, "-c", "import metaflow, flowstore.metaflow", expect=1)
    assert text.splitlines()[-1].startswith("flowstore.metaflow.names.NameTakenError: metaflow is already imported")
