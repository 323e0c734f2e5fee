"""The time limit of a block of code."""

from __future__ import annotations

import signal
import time

import pytest

from flowstore import alarm
from support.processes import wait_for

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that interrupt")


class Late(Exception):
    """The time of a block was up."""


@pytest.fixture
def rings():
    """A timer that a user has set, and when it rang; the timer and its handler are gone afterwards."""
    times = []
    handler = signal.signal(signal.SIGALRM, lambda _signal, _frame: times.append(time.monotonic()))
    yield times
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)


def test_a_block_that_takes_too_long_is_interrupted():
    with pytest.raises(Late), alarm.limited(0.02, Late()):
        time.sleep(10)


@pytest.mark.parametrize("after_s", [0.01, 0.1])
def test_a_timer_of_the_users_own_goes_on_afterwards(rings, after_s):
    """One that fell due in the block rings at its end."""
    signal.setitimer(signal.ITIMER_REAL, after_s)
    with alarm.limited(10, Late()):
        time.sleep(0.03)
    wait_for(lambda: rings, 5)
    assert len(rings) == 1


def test_limits_can_be_nested():
    """The outer one holds although the inner one has ended."""

    def outlast_the_inner():
        with alarm.limited(10, ValueError()):
            pass
        time.sleep(10)

    with pytest.raises(Late), alarm.limited(0.05, Late()):
        outlast_the_inner()
