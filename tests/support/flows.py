"""Flows as text."""

from __future__ import annotations

import textwrap

import pytest

MEND = "if not Path('mended').exists(): raise RuntimeError('boom')"

HEAD = """\
import os
import signal
import sys
import time
from pathlib import Path

from flowstore import *
from flowstore import current

"""

LINEAR = {"start": "self.next(self.end)", "end": ""}
MIDDLE = {"start": "self.next(self.middle)", "middle": "self.next(self.end)", "end": ""}
FOREACH = {
    "start": "self.next(self.body, foreach='xs')",
    "body": "self.next(self.join)",
    "join": "self.next(self.end)",
    "end": "",
}
GANG = {**FOREACH, "start": "self.next(self.body, num_parallel=2)"}
BRANCH = {
    "start": "self.next(self.a, self.b)",
    "a": "self.next(self.join)",
    "b": "self.next(self.join)",
    "join": "self.next(self.end)",
    "end": "",
}

METHODS = {  # the ways in which tasks' processes start
    "fork": ("--start-method", "fork"),
    "spawn": ("--start-method", "spawn"),
    "reused fork": ("--reuse-workers",),
    "reused spawn": ("--reuse-workers", "--start-method", "spawn"),
}
every_method = pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
PATIENT = "from flowstore.store import pictures\npictures.LONGEST_S = 30.0  # a busy machine needs more than a second"
COUNT_IMPORTS = "with open('imported', 'a') as file: file.write('x')\n"  # at the top of a flow


def flow_source(tails, *, head="", members="", **bodies):
    """The source of a flow `F`.

    `tails` holds the last statement of each step, `bodies` what comes before it, beginning with the step's
    decorators. A step whose name begins with `join` takes `inputs`. `members` stands in the class, `head` above it.
    """
    assert bodies.keys() <= tails.keys(), "a body without a step"
    parts = [HEAD, textwrap.dedent(head), "\nclass F(FlowSpec):\n", _indented(members, 4)]
    for name, tail in tails.items():
        lines = textwrap.dedent(bodies.get(name, "")).strip("\n").splitlines()
        marks = [line for line in lines if line.startswith("@")]
        inputs = ", inputs" if name.startswith("join") else ""
        parts += [_indented("\n".join([*marks, "@step", f"def {name}(self{inputs}):"]), 4)]
        parts += [_indented("\n".join([*lines[len(marks) :], tail or "pass"]), 8)]
    return "".join([*parts, '\n\nif __name__ == "__main__":\n    F()\n'])


def _indented(text, by):
    return textwrap.indent(textwrap.dedent(text).strip("\n") + "\n", " " * by)
