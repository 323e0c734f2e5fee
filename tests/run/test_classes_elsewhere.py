"""Classes of the flow's file in a process without that file: rebuilt by value, or named when they are written."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.flows import MIDDLE, flow_source

CLASSES = {  # the members of a class, and what is asked of an object of it
    "a cached property": ("@functools.cached_property\ndef twice(self): return 2 * self.x", "it.twice"),
    "a cache": ("@functools.cache\ndef twice(self): return 2 * self.x", "it.twice()"),
    "a cache of a size": ("@functools.lru_cache(3)\ndef twice(self): return 2 * self.x", "it.twice()"),
    "a static cache": ("@staticmethod\n@functools.cache\ndef double(x): return 2 * x", "it.double(it.x)"),
    "a lock": ("lock = threading.Lock()\ndef twice(self):\n    with self.lock: return 2 * self.x", "it.twice()"),
    "a reentrant lock": (
        "lock = threading.RLock()\ndef twice(self):\n    with self.lock, self.lock: return 2 * self.x",
        "it.twice()",
    ),
    "an event": ("done = threading.Event()\ndef twice(self): return 2 * self.x + self.done.is_set()", "it.twice()"),
    "a local": (
        "local = threading.local()\ndef twice(self): self.local.x = self.x; return 2 * self.local.x",
        "it.twice()",
    ),
    "a partial method": (
        "def times(self, n): return n * self.x\ntwice = functools.partialmethod(times, 2)",
        "it.twice()",
    ),
    "a global lock": ("def twice(self):\n    with LOCK: return 2 * self.x", "it.twice()"),
    "a global cache": ("def twice(self): return cached(self.x)", "it.twice()"),
    "a logger": ("log = logging.getLogger('x')\ndef twice(self): self.log.debug(1); return 2 * self.x", "it.twice()"),
    "a property": ("@property\ndef twice(self): return 2 * self.x", "it.twice"),
}
HEAD = """
import functools
import logging
import threading

LOCK = threading.Lock()

@functools.cache
def cached(x):
    return 2 * x

class Model:
    def __init__(self, x):
        self.x = x
"""


@pytest.mark.parametrize("options", [[], ["--start-method", "spawn"]])
def test_a_class_is_rebuilt_where_the_flow_is_missing(options, flow):
    """Whatever its members are, an object works in the next step and in another process without the flow's file."""
    names = {f"Model{at}": item for at, item in enumerate(CLASSES.values())}
    head = HEAD + "".join(
        f"\nclass {name}(Model):\n    " + members.replace("\n", "\n    ") + "\n" for name, (members, _) in names.items()
    )
    asked = {name: question for name, (_, question) in names.items()}
    source = flow_source(
        MIDDLE,
        head=head,
        start="\n".join(f"self.v{name} = {name}(21)" for name in names),
        middle="\n".join(f"it = self.v{name}; assert {question} == 42" for name, question in asked.items()),
    )
    script = flow(source)
    script("run", *options)
    script.file.rename(script.folder / "elsewhere")
    code = "import flowstore; data = flowstore.Run('F/1')['start'].task.data\n" + "\n".join(
        f"it = data.v{name}; print({question})" for name, question in asked.items()
    )
    command = [sys.executable, "-W", "error", "-c", code]
    told = subprocess.run(command, cwd=script.folder, check=True, capture_output=True, text=True)
    assert told.stdout.split() == ["42"] * len(names)


HELD = {
    "in the class": "class Held:\n    file = open(os.devnull, 'a')\n",
    "in a global": "FILE = open(os.devnull, 'a')\nclass Held:\n    def read(self): return FILE.write('x')\n",
}


@pytest.mark.parametrize("where", HELD)
def test_a_class_that_cannot_be_rebuilt_is_told_when_it_is_written(where, flow):
    """The task's log names the class and the reason; the flow itself goes on with the object."""
    middle = "assert type(self.held) is Held"
    script = flow(flow_source(MIDDLE, head=HELD[where], start="self.held = Held()", middle=middle))
    told = script("run", PYTHONWARNINGS="default").stdout
    assert "Objects of the class Held can be loaded by this flow only" in told
    assert "Cannot pickle files" in told


def test_a_cached_function_is_a_value(flow):
    """A function with a cache is written by value, as any function of the flow's file is; the cache is not."""
    script = flow(flow_source(MIDDLE, head=HEAD, start="cached(1); self.f = cached", middle="assert self.f(4) == 8"))
    script("run")
    script.file.rename(script.folder / "elsewhere")
    code = "import flowstore; f = flowstore.Run('F/1').data.f; print(f(21), f.cache_info().misses)"
    command = [sys.executable, "-W", "error", "-c", code]
    told = subprocess.run(command, cwd=script.folder, check=True, capture_output=True, text=True)
    assert told.stdout.split() == ["42", "1"]
