"""Flows that are modules of a package, `python -m shop.flows.train`: run, resumed, deployed, triggered, exported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

import flowstore
from support.cli import Script, command
from support.flows import HEAD
from support.sources import IDS, METHODS, python, write

TRAIN = (
    HEAD
    + """
from ..rates import RATE
from shop import models
import common

class F(FlowSpec):
    factor = Parameter("factor", default=2)

    @step
    def start(self):
        self.model = models.Model(RATE * self.factor + common.ONE)
        self.argv0 = sys.argv[0]
        self.next(self.end)

    @step
    def end(self):
        from ..late import LATE
        from . import helpers
        assert type(self.model) is models.Model
        self.seen = [self.model.size, LATE, helpers.HELP, __name__, __spec__.name, Path(__file__).name]
        assert not Path("failing").exists(), "on purpose"

if __name__ == "__main__":
    F()
"""
)
FILES = {
    "shop/__init__.py": "",
    "shop/flows/__init__.py": "",
    "shop/flows/helpers.py": "HELP = 5\n",
    "shop/flows/train.py": TRAIN,
    "shop/rates.py": "RATE = 3\n",
    "shop/late.py": "LATE = 4\n",
    "shop/models.py": "class Model:\n    def __init__(self, size):\n        self.size = size\n",
    "common.py": "ONE = 1\n",
    "unrelated.py": "",
}
SEEN = [7, 4, 5, "__main__", "shop.flows.train", "train.py"]
KEPT = [
    "common.py",
    "shop/__init__.py",
    "shop/flows/__init__.py",
    "shop/flows/helpers.py",
    "shop/flows/train.py",
    "shop/late.py",
    "shop/models.py",
    "shop/rates.py",
]
FLOW = ("-m", "shop.flows.train")


def make(folder):
    """Write the project into a folder."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def shop(tmp_path):
    """The project in a folder of its own, and where runs are started."""
    make(tmp_path)
    return Script(tmp_path, "")


def seen(script, run_id):
    """What the end of a run saw, in whichever namespace it is."""
    flowstore.use_store(script.db)
    flowstore.namespace(None)
    return flowstore.Run(f"F/{run_id}").data.seen


@pytest.mark.parametrize("method", METHODS, ids=IDS)
@pytest.mark.quick("fork", "spawn")
def test_a_flow_in_a_package(shop, method):
    """It runs, resumes and keeps its package; hints name the module."""
    (shop.folder / "failing").touch()
    said = python(shop.folder, *FLOW, "run", *method, expect=1)
    assert "python -m shop.flows.train resume --origin-run-id 1" in said
    (shop.folder / "failing").unlink()
    python(shop.folder, *FLOW, "resume", *method)
    assert seen(shop, 2) == SEEN
    code = flowstore.Run("F/2").code
    assert (code.script_name, code.module, code.files) == ("shop/flows/train.py", "shop.flows.train", KEPT)
    assert code.flowspec == TRAIN
    with code.extract() as folder:
        python(folder, *FLOW, "run", "--factor", 5)
        assert python(folder, *FLOW, "dump", "1/end", "--include", "seen").count("16") == 1


@pytest.mark.parametrize("method", METHODS[:2], ids=IDS[:2])
@pytest.mark.parametrize("where", ["elsewhere", "installed", "editable", "linked"])
@pytest.mark.quick("elsewhere-fork", "editable-spawn")
def test_from_any_folder(tmp_path, where, method):
    """The package is found through PYTHONPATH, among the installed ones, or through a link; and run, kept, deployed."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    if where == "installed":
        project = tmp_path / "lib" / "site-packages"
        (project / "other").mkdir(parents=True)
        (project / "other" / "__init__.py").touch()
    make(project)
    elsewhere.mkdir()
    paths = project
    if where == "linked":
        paths = tmp_path / "link"
        paths.symlink_to(project)
    elif where == "editable":
        finder = f"""
            import sys, importlib.util
            class Finder:
                def find_spec(self, name, path=None, target=None):
                    if name == "shop":
                        return importlib.util.spec_from_file_location(name, {str(project / "shop" / "__init__.py")!r})
                    if name == "common":
                        return importlib.util.spec_from_file_location(name, {str(project / "common.py")!r})
            sys.meta_path.append(Finder())
        """
        write(tmp_path / "site", sitecustomize=finder)
        paths = tmp_path / "site"
    python(elsewhere, *FLOW, "run", *method, PYTHONPATH=str(paths))
    python(elsewhere, *FLOW, "deploy", "create", PYTHONPATH=str(paths))
    python(elsewhere, *FLOW, "deploy", "trigger", PYTHONPATH=str(paths))
    script = Script(elsewhere, "")
    assert [seen(script, 1), seen(script, 2)] == [SEEN, SEEN]
    kept = KEPT[1:] if where == "installed" else KEPT
    assert flowstore.Run("F/1").code.files == flowstore.Run("F/2").code.files == kept


@pytest.mark.parametrize("what", ["changed", "deleted"])
def test_a_deployed_package_runs_whatever_became_of_it(shop, what):
    """The deployed package wins over the one in the current folder, and does without it."""
    assert "python -m shop.flows.train deploy trigger" in python(shop.folder, *FLOW, "deploy", "create")
    (shop.folder / "shop" / "late.py").write_text("raise SystemExit('changed')\n")
    (shop.folder / "shop" / "rates.py").write_text("RATE = 100\n")
    if what == "changed":
        python(shop.folder, *FLOW, "deploy", "trigger", "--factor", 5)
    else:
        shutil.rmtree(shop.folder / "shop")
        (shop.folder / "common.py").unlink()
        code = (
            "from flowstore import *; from flowstore.production import deploy\n"
            "from flowstore.store.opening import active_store\n"
            "[made] = deploy.deployments(active_store())\n"
            "raise SystemExit(deploy.trigger(active_store(), made, {'factor': '5'}))"
        )
        python(shop.folder, "-c", code)
    assert seen(shop, 1) == [16, *SEEN[1:]]


def test_a_deployed_package_that_fails_says_how_to_resume(shop):
    """The command that resumes names the module, not a temporary file."""
    (shop.folder / "failing").touch()
    python(shop.folder, *FLOW, "deploy", "create")
    said = python(shop.folder, *FLOW, "deploy", "trigger", expect=1)
    assert "python -m shop.flows.train resume --origin-run-id 1" in said
    (shop.folder / "failing").unlink()
    python(shop.folder, *FLOW, "resume", "--origin-run-id", 1)
    assert seen(shop, 2) == SEEN


def test_the_scheduler_starts_a_deployed_package(shop):
    """`flowstore scheduler` runs the deployed module."""
    source = TRAIN.replace("class F(", "@schedule(cron='* * * * *')\nclass F(")
    (shop.folder / "shop" / "flows" / "train.py").write_text(source)
    python(shop.folder, *FLOW, "deploy", "create")
    sql = "update deployments set deployed_at = deployed_at - 120000"
    python(
        shop.folder,
        "-c",
        f"import sqlite3; c = sqlite3.connect('flowstore.db'); c.execute({sql!r}); c.commit(); c.close()",
    )
    subprocess.run(
        [sys.executable, "-m", "flowstore", "scheduler", "--once"],
        cwd=shop.folder,
        check=True,
        timeout=60,
        env=os.environ,
    )
    assert seen(shop, 1) == SEEN


def test_a_module_of_the_snapshot_travels(shop, tmp_path_factory):
    """Export and import keep the package and the module's name; `check` finds nothing."""
    python(shop.folder, *FLOW, "run")
    other = tmp_path_factory.mktemp("other")
    command("export", other / "out.db", folder=shop.folder)
    command("import", "out.db", "--store", "all.db", folder=other)
    command("check", "--deep", "--store", "all.db", folder=other)
    with flowstore.use_store(other / "all.db"):
        flowstore.namespace(None)
        code = flowstore.Run("F/1").code
        assert (code.module, code.files) == ("shop.flows.train", KEPT)


def test_another_module_is_another_snapshot(shop):
    """Which module runs is part of what is signed: a changed name is refused."""
    python(shop.folder, *FLOW, "deploy", "create")
    sql = "update codes set module = 'shop.late'"
    python(
        shop.folder,
        "-c",
        f"import sqlite3; c = sqlite3.connect('flowstore.db'); c.execute({sql!r}); c.commit(); c.close()",
    )
    assert "flowstore trust" in python(shop.folder, *FLOW, "deploy", "trigger", expect=1)


def test_a_package_that_is_run_by_its_name(tmp_path):
    """`python -m shop` runs `shop/__main__.py`, also when it is deployed."""
    write(tmp_path, shop__late="LATE = 4\n")
    (tmp_path / "shop" / "__main__.py").write_text(
        HEAD + "class F(FlowSpec):\n    @step\n    def start(self):\n        from .late import LATE\n"
        "        self.seen = LATE\n        self.next(self.end)\n    @step\n    def end(self): pass\n"
        "if __name__ == '__main__':\n    F()\n"
    )
    for method in METHODS[:2]:
        python(tmp_path, "-m", "shop", "run", *method)
    assert "python -m shop deploy trigger" in python(tmp_path, "-m", "shop", "deploy", "create")
    python(tmp_path, "-m", "shop", "deploy", "trigger")
    assert seen(Script(tmp_path, ""), 3) == 4
