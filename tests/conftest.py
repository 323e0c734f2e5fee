"""Every test has a folder, a home and a user of its own, and leaves a sound store behind."""

from __future__ import annotations

import collections
import fcntl
import gc
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from flowstore import context, namespace, use_store
from support.cli import Script
from support.flows import flow_source
from support.looks import BODIES, LONG, MEMBERS, SHAPE
from support.slurm import Slurm, why_not

settings.register_profile("steady", deadline=None, derandomize=True)  # the same examples on each machine, however slow
settings.load_profile("steady")


def pytest_xdist_auto_num_workers():
    """One worker more than there are cores: a test mostly waits for the processes that it started."""
    return (os.cpu_count() or 1) + 1


def pytest_addoption(parser):
    """Let every command have an interpreter of its own, which takes several times as long; keep pictures of pages."""
    parser.addoption("--fresh", action="store_true", help="run each command in an interpreter of its own")
    parser.addoption("--screenshots", metavar="FOLDER", help="keep pictures of the pages that browser tests look at")


_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 2 << 30


def pytest_configure(config):
    """Pass the option on; let Ctrl-C reach what tests start, also where a shell runs them in the background.

    Where there is room, the quick tests keep their many small stores in memory: on a disk they wait for it, for a third
    of their time.
    """
    Script.fresh = config.getoption("fresh")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    is_roomy = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    if is_roomy and "not long" in config.option.markexpr:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Look for no cycles among what collecting makes, all of which stays: each look takes longer than the last."""
    gc.disable()
    result = yield
    gc.freeze()
    gc.enable()
    return result


@pytest.hookimpl(tryfirst=True)  # before the marks choose
def pytest_collection_modifyitems(items):
    """Choose the long group: tests in long.txt, cases that are not quick, all but the first case of running a flow.

    Of a test with several such cases it takes the first and the last, but of some tests all. The others are soaks, and
    so are cases whose ids begin like a line of soak.txt.
    """
    slow = set((Path(__file__).parent / "long.txt").read_text("utf-8").splitlines())
    slowest = tuple((Path(__file__).parent / "soak.txt").read_text("utf-8").splitlines())
    first = {}
    cases = collections.defaultdict(list)
    for item in items:
        in_list = item.nodeid.partition("[")[0].removeprefix("tests/") in slow
        if in_list or (hasattr(item, "callspec") and _is_spared(item, first)):
            item.add_marker("long")
        if item.nodeid.removeprefix("tests/").startswith(slowest):
            item.add_marker("soak")
        if item.get_closest_marker("long") and not item.get_closest_marker("soak") and not _WHOLE & {*item.path.parts}:
            cases[item.function].append(item)
    for several in cases.values():
        for item in several[1:-1]:
            item.add_marker("soak")


_WHOLE = {"aws", "browser", "cluster", "test_executor_contract.py", "test_kill.py", "test_power.py"}


def _is_spared(item, first):
    """Return whether a case of a test need not run each time; `first` collects the first case of each test."""
    quick = item.get_closest_marker("quick")
    if quick is not None:
        return item.callspec.id not in quick.args
    return "flow" in item.fixturenames and first.setdefault(item.function, item) is not item


@pytest.fixture(autouse=True)
def _isolated(request, tmp_path, monkeypatch):
    """No test sees the user's own files, settings or store, nor what another test chose."""
    if request.node.get_closest_marker("untraced"):
        for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):
            monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith("FLOWSTORE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FLOWSTORE_USER", "tester")
    monkeypatch.chdir(tmp_path)
    yield
    _close()
    context.state.namespace = context.UNSET
    context.state.task = {}
    context.state.flow_module = None


def _close():
    if context.state.store is not None:
        context.state.store.close()
        context.state.store = None


@pytest.fixture
def flow(request, tmp_path):
    """Write a flow's source into the test's folder; gives the `Script`, whose store is checked at the end."""
    made = []

    def write(source):
        script = Script(tmp_path, source)
        script.fresh = script.fresh or request.node.get_closest_marker("fresh") is not None
        made.append(script)
        return script

    yield write
    _close()
    for script in made:
        script.check()


@pytest.fixture
def open_folder():
    """A folder that other accounts may look into, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="flowstore-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def path(tmp_path):
    """Where a test's store is, unless it says otherwise."""
    return tmp_path / "flowstore.db"


@pytest.fixture(scope="session")
def copy_of(tmp_path_factory):
    """Return a copy of a folder that is built once for all workers: by the first that needs it, while others wait."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def copy(name, build):
        built = shared / f"built-{name}"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not built.exists():
                folder = tmp_path_factory.mktemp("build")
                build(folder)
                folder.rename(built)
        return shutil.copytree(built, tmp_path_factory.mktemp(name), dirs_exist_ok=True)

    return copy


@pytest.fixture(scope="module")
def story(copy_of):
    """F/1; F/2 by will, with a long note and two tags; F/3 failed in its end."""
    pytest.importorskip("pyarrow")
    script = _story_in(copy_of("story", _tell_story))
    yield script
    script.check()


def _story_in(folder):
    return Script(folder, flow_source(SHAPE, members=MEMBERS, **BODIES), FLOWSTORE_HOME=folder / "home")


def _tell_story(folder):
    script = _story_in(folder)
    script("run", FLOWSTORE_USER="anne")
    script("run", "--note", LONG, "--tag", "👍 good", "--tag", "日本語", FLOWSTORE_USER="will")
    script("run", "--alpha", 2, "--tag", "日本語", expect=1, FLOWSTORE_USER="anne")


@pytest.fixture
def look(story, monkeypatch):
    """The story's store, opened by this process, looking at everything."""
    monkeypatch.setenv("FLOWSTORE_HOME", str(story.folder / "home"))
    use_store(story.db)
    namespace(None)
    return story


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Call it to become somebody else, with another key."""
    return lambda: monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "stranger"))


# --- Slurm

SLURM_REQUIRED = os.environ.get("FLOWSTORE_TEST_SLURM") == "1"  # before each test loses the user's own settings


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory):
    """A Slurm cluster of this machine with two nodes; with FLOWSTORE_TEST_SLURM=1 it may not be missing."""
    reason = why_not()
    if reason is not None:
        (pytest.fail if SLURM_REQUIRED else pytest.skip)(reason)
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.close()


@pytest.fixture
def slurm(slurm_cluster, monkeypatch):
    """The cluster, which commands of this test find, and on which they leave no job."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster.config))
    yield slurm_cluster
    slurm_cluster.wait(lambda: not slurm_cluster.jobs(), "the end of all jobs")
