"""Whatever is killed, and whenever: what was said to have finished is there, and the rest can be done again.

The quick form tries a few moments of each kind, chosen by a seed. The long form tries all of them, and then random
ones for as long as it is told to: `python -m pytest -m soak -n0 tests/test_kill.py`, with `$SOAK_SEED` and
`$SOAK_SECONDS` to choose.
"""

from __future__ import annotations

import random

import pytest
from killing import WORKS, Scene

pytestmark = pytest.mark.skipif("sys.platform != 'linux'", reason="looks for processes in /proc")

SEED = 1


def moments(name, count):
    """Some moments at which to kill, the same in each run of the tests."""
    return random.Random(f"{SEED} {name}").sample(range(1, 60), count)


@pytest.mark.parametrize("name", WORKS)
def test_a_driver_is_killed(name, flow):
    """A run that is killed at any moment loses nothing that had finished, and resuming comes to the same end."""
    for at in moments(name, 2):
        scene = Scene(flow, WORKS[name])
        killed = scene.kill(at)
        scene.verify(killed.acknowledged)
