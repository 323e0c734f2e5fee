"""Helpers for the code of steps: `parallel_map`, `parallel_imap_unordered`, `profile`."""

from __future__ import annotations

import os
import time

import pytest

from flowstore import FlowstoreError, parallel_imap_unordered, parallel_map, profile
from support.flows import LINEAR, flow_source


def test_values_come_in_order():
    """Lambdas and closures, any iterable, values that only cloudpickle can carry."""
    factor = 3
    assert parallel_map(lambda number: number * factor, iter(range(20)), max_parallel=4) == [3 * n for n in range(20)]
    assert [make() for make in parallel_map(lambda number: lambda: number, range(3))] == [0, 1, 2]
    assert parallel_map(str, []) == []


def test_unordered_values_come_as_they_are_ready():
    """The quick one is not held up by the slow one."""

    def wait(seconds):
        time.sleep(seconds)
        return seconds

    assert next(parallel_imap_unordered(wait, [20, 0.01], max_parallel=2)) == 0.01


def test_items_run_in_processes_of_their_own():
    """At most `max_parallel` at a time; what they change is theirs."""
    seen = []
    pids = parallel_map(lambda _: (seen.append(1), os.getpid())[1], range(3), max_parallel=1)
    assert len({*pids, os.getpid()}) == 4
    assert seen == []


def test_a_failure_names_its_item(capfd):
    """The function's error is the cause; a process that dies is an error as well."""
    with pytest.raises(FlowstoreError, match="failed for item 1, counted from 0: ZeroDivisionError") as caught:
        parallel_map(lambda number: 1 / number, [1, 0, 2], max_parallel=1)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "ZeroDivisionError" in capfd.readouterr().err
    with pytest.raises(FlowstoreError, match="item 0, counted from 0, exited with code 5"):
        parallel_map(lambda _: os._exit(5), [1])
    with pytest.raises(FlowstoreError, match="result cannot be pickled"):
        parallel_map(lambda _: (number for number in "ab"), [1])


def test_profile(capsys):
    """It prints how long a block took, or adds it up in a dict."""
    took = {}
    for _ in range(2):
        with profile("part", took):
            time.sleep(0.01)
    assert 20 <= took["part"] < 5000
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="passed on"), profile("other"):
        raise ValueError("passed on")
    assert capsys.readouterr().out.startswith("PROFILE: other starting\nPROFILE: other completed in ")


def test_in_a_step(flow):
    """A task may map; its children do not speak for it."""
    body = "self.squares = parallel_map(lambda n: (print('at', n), n * n)[1], range(4))"
    script = flow(flow_source(LINEAR, start=body))
    result = script("run")
    assert script.client().data.squares == [0, 1, 4, 9]
    assert result.stdout.count(" at ") == 4
