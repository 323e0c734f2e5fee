"""A task is like a script of its own: how its process starts, the random numbers it draws."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

import flowstore
from support.flows import COUNT_IMPORTS, FOREACH, GANG, LINEAR, METHODS, every_method, flow_source

pytestmark = pytest.mark.fresh

# --- threads that the import leaves


def imports(script):
    """How often the flow has been imported since the last call."""
    file = script.folder / "imported"
    count = len(file.read_text())
    file.unlink()
    return count


FORKING = {
    "nothing": "",
    "NumPy": "import numpy",
    "NumPy that has computed": "import numpy as np; X = np.ones((600, 600)); Y = X @ X",
    "pandas": "import pandas",
    "pyarrow": "import pyarrow",
    "pyarrow's pool": """
import pandas as pd
pd.DataFrame({name: range(100_000) for name in "abcdefgh"}).to_parquet("x.parquet")
TABLE = pd.read_parquet("x.parquet")
""",
    "scikit-learn": "import sklearn, sklearn.ensemble, sklearn.linear_model",
    "scikit-learn with NumPy's threads": """
from sklearn.linear_model import LogisticRegression
MODEL = LogisticRegression().fit([[0], [1], [2]], [0, 0, 1])
""",
    "matplotlib": "import matplotlib; matplotlib.use('agg'); import matplotlib.pyplot as plt; plt.plot([1])",
    "PIL": "import PIL.Image; PIL.Image.new('RGB', (9, 9)).tobytes()",
    "tqdm": "from tqdm import tqdm\nfor _ in tqdm(range(3), disable=False): pass",
    "an executor that was closed": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool: assert [*pool.map(abs, [-1])] == [1]
""",
    "a thread that has ended": "import threading; t = threading.Thread(target=print); t.start(); t.join()",
}


@pytest.mark.parametrize("head", FORKING.values(), ids=FORKING)
@pytest.mark.quick("nothing", "NumPy that has computed", "scikit-learn")
def test_what_still_forks(head, flow):
    """Threads that a fork survives, or that are gone, don't keep tasks from being forked."""
    use = (
        "if 'pandas' in sys.modules and Path('x.parquet').exists(): assert len(pd.read_parquet('x.parquet')) == 100_000"
    )
    script = flow(flow_source(LINEAR, head=head + "\n" + COUNT_IMPORTS, start=use, end="if 'Y' in globals(): X @ X"))
    result = script("run", PYTHONWARNINGS="default")
    assert imports(script) == 1
    assert "fresh Python" not in result.stderr


SPAWNING = {
    "OpenMP (scikit_learn)": """
from sklearn.ensemble import HistGradientBoostingClassifier
X, Y = [[x] for x in range(200)], [x % 2 for x in range(200)]
def work(): return HistGradientBoostingClassifier(max_iter=5).fit(X, Y).n_iter_
BASE = work()
""",
    "polars": """
import polars as pl
def work(): return pl.DataFrame({"a": range(99)}).lazy().group_by("a").agg(pl.len()).collect().height
BASE = work()
""",
    "ThreadPoolExecutor-0_0": """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)
def work(): return pool.submit(abs, -1).result()
work()
""",
    "ending soon": """
import threading
timer = threading.Timer(100, print)
timer.name, timer.daemon = "ending soon", True
timer.start()
def work(): return timer.is_alive()
""",
    "_handle_workers": """
import atexit
from multiprocessing.pool import ThreadPool
pool = ThreadPool(1)
atexit.register(pool.terminate)
def work(): return pool.map(abs, [-1])
work()
""",
    "QueueFeederThread": """
import multiprocessing
queue = multiprocessing.get_context("spawn").Queue()
queue.put(1)
def work(): return queue.get()
""",
}


@pytest.mark.parametrize(("named", "head"), SPAWNING.items(), ids=SPAWNING)
@pytest.mark.quick("polars", "ThreadPoolExecutor-0_0")
def test_threads_that_a_fork_would_lose(named, head, flow):
    """Tasks start a fresh Python each, find what they need, and one line says why and names the threads."""
    script = flow(flow_source(LINEAR, head=head + COUNT_IMPORTS, start="self.x = bool(work())", end="work()"))
    result = script("run", timeout=200, PYTHONWARNINGS="default")
    assert imports(script) == 3  # the driver, and two tasks
    assert script.client().data.x is True
    [line] = [line for line in result.stderr.splitlines() if "fresh Python" in line]
    assert named in line


def test_log_records_of_a_listener_that_the_import_started(flow, tmp_path):
    """A `QueueListener` that the flow starts at import writes the records of tasks."""
    head = """
import logging, logging.handlers, queue
records = queue.Queue()
listener = logging.handlers.QueueListener(records, logging.FileHandler("log.txt"))
listener.start()
logging.getLogger().addHandler(logging.handlers.QueueHandler(records))
"""
    body = "logging.warning(current.step_name); listener.stop()"  # which waits until all is written
    script = flow(flow_source(LINEAR, head=head, start=body, end=body))
    script("run", PYTHONWARNINGS="default")
    assert (tmp_path / "log.txt").read_text().split() == ["start", "end"]


def test_fork_is_what_the_user_asked_for(flow):
    """`--start-method fork` forks in spite of threads, with a warning that names them."""
    head = "import threading\nthreading.Thread(target=threading.Event().wait, name='waiting', daemon=True).start()\n"
    script = flow(flow_source(LINEAR, head=head + COUNT_IMPORTS))
    result = script("run", "--start-method", "fork", "--quiet", PYTHONWARNINGS="default")
    assert imports(script) == 1
    assert "Warning" in result.stderr
    assert "(waiting)" in result.stderr


# --- random numbers

SEEDED = """
import random
import numpy as np
from collections import deque

random.seed(7)
np.random.seed(7)
OWN = random.Random(5)
RNG = np.random.default_rng(7)
OLD = np.random.RandomState(6)
OTHER = np.random.Generator(np.random.Philox(7))
OLDER = np.random.RandomState(np.random.PCG64(7))
HELD = {"a": [deque([random.Random(8)])], "b": (np.random.default_rng(9),)}
draw = np.random.default_rng(10).random

def default(rng=np.random.default_rng(11)):
    return rng.random()

class Holder:
    rng = random.Random(12)
    def __init__(self):
        self.mine = np.random.default_rng(13)

HOLDER = Holder()
import beside

def numbers():
    generators = [random, np.random, OWN, RNG, OLD, OTHER, OLDER, HELD["a"][0][0], HELD["b"][0], Holder.rng,
                  HOLDER.mine, beside.RNG, RNG.spawn(1)[0]]
    return [*(float(generator.random()) for generator in generators), draw(), default(), F.rng.random()]
"""
DRAWING = flow_source(
    FOREACH,
    head=SEEDED,
    members="rng = random.Random(14)",
    start="self.xs = [1, 2]",
    body="""
@retry(times=1, minutes_between_retries=0)
self.mine = numbers()
if current.retry_count == 0: raise OSError
""",
    join="self.all = [i.mine for i in inputs]",
    end="self.last = numbers()",
)


def drawn(script, *options):
    """The numbers that each task of a run drew, and those of the attempts that failed."""
    script("run", "--quiet", *options, PYTHONWARNINGS="default")
    run = script.client(script.sql("select max(id) from runs")[0])
    first = [flowstore.Task(task.pathspec, attempt=0).data.mine for task in run["body"]]
    return [*run.data.all, run.data.last], sorted(first)


def test_seeded_generators_give_the_same_numbers(flow, tmp_path):
    """What the flow seeds gives the same in each run, however tasks start and whatever is tried again."""
    (tmp_path / "beside.py").write_text("import random\nRNG = random.Random(20)\n")
    script = flow(DRAWING)
    found = {name: drawn(script, *options) for name, options in METHODS.items()}
    numbers, first = found["fork"]
    assert all(other == found["fork"] for other in found.values())
    assert sorted(numbers[:2]) == first  # an attempt draws what the one before it drew
    flat = [number for task in numbers for number in task]
    assert len(set(flat)) == len(flat) == 3 * 16


@every_method
@pytest.mark.quick("fork", "spawn")
def test_generators_without_a_seed_differ(options, flow, tmp_path):
    """What the flow doesn't seed gives other numbers to each task, and in each run."""
    (tmp_path / "beside.py").write_text("import random\nRNG = random.Random()\n")
    source = re.sub(r"^(np\.)?random\.seed\(7\)$", "", DRAWING, flags=re.MULTILINE)
    script = flow(re.sub(r"(Random|default_rng|RandomState|Philox|PCG64)\(\d+\)", r"\1()", source))
    runs = [drawn(script, *options)[0] for _ in range(2)]
    flat = [number for run in runs for task in run for number in task]
    assert len(set(flat)) == len(flat) == 2 * 3 * 16


def test_a_resumed_task_draws_the_same(flow):
    """A task that is run again by `resume` draws the numbers that it drew before."""
    end = "with open('drawn', 'a') as file: print(random.random(), file=file)\nif not Path('mended').exists(): 1 / 0"
    script = flow(flow_source(LINEAR, head="import random\nrandom.seed(7)", end=end))
    script("run", expect=1)
    (script.folder / "mended").touch()
    script("resume")
    first, again = (script.folder / "drawn").read_text().split()
    assert first == again


def test_members_of_a_gang_differ(flow):
    """Each member of a gang has its own numbers, the same in each run."""
    source = flow_source(
        GANG,
        head="import random\nrandom.seed(7)",
        body="@parallel\nself.mine = random.random()",
        join="self.all = [i.mine for i in inputs]",
    )
    script = flow(source)
    script("run")
    script("run")
    first, second = script.client(1).data.all, script.client(2).data.all
    assert first == second
    assert len(set(first)) == 2


def test_a_parameter_may_draw_its_default(flow):
    """A default that is drawn when the run starts changes nothing in what tasks draw."""
    head = "import random\nrandom.seed(7)\ndef number(context): return random.random()"
    script = flow(
        flow_source(
            LINEAR,
            head=head,
            members="x = Parameter('x', type=float, default=number)",
            start="self.y = random.random()",
        )
    )
    script("run")
    script("run", "--x", 1)
    script("run", "--start-method", "spawn")
    assert len({script.client(run).data.y for run in (1, 2, 3)}) == 1


def test_a_stored_generator_is_a_value(flow):
    """A generator that is an artifact goes on in the next step where it was."""
    head = "import random\nimport numpy as np"
    start = "self.rngs = [random.Random(7), np.random.default_rng(7)]"
    script = flow(
        flow_source(LINEAR, head=head, start=start, end="self.x = [float(rng.random()) for rng in self.rngs]")
    )
    script("run")
    assert script.client().data.x == [random.Random(7).random(), np.random.default_rng(7).random()]


def test_generators_of_torch(flow):
    """torch's own generator, and those that the flow makes, follow the same rules."""
    pytest.importorskip("torch")
    source = flow_source(
        FOREACH,
        head="import torch\ntorch.manual_seed(7)\nOWN = torch.Generator().manual_seed(7)",
        start="self.xs = [1, 2]",
        body="self.mine = [torch.rand(1).item(), torch.rand(1, generator=OWN).item()]",
        join="self.all = [x for i in inputs for x in i.mine]",
    )
    script = flow(source)
    for options in METHODS.values():
        script("run", *options, PYTHONWARNINGS="default")
    runs = [script.client(run).data.all for run in range(1, 5)]
    assert all(run == runs[0] for run in runs)
    assert len(set(runs[0])) == 4
