"""Artifacts over 2 GiB, where there is room for them."""

from __future__ import annotations

import resource

import pytest

from support.flows import flow_source
from support.processes import skip_without_room

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200), pytest.mark.fresh]

STEPS = {"start": "self.next(self.again)", "again": "self.next(self.end)", "end": ""}
SIZE = 9 << 28  # 2.25 GiB
HEAD = f"SIZE = {SIZE}"


@pytest.mark.parametrize(
    ("make", "check"),
    [
        ("self.big = bytes(SIZE)", "assert len(self.big) == SIZE and not any(self.big[::SIZE // 18])"),
        (
            "import numpy; self.big = numpy.arange(SIZE // 8)",
            "assert self.big.nbytes == SIZE and self.big[-1] == len(self.big) - 1",
        ),
    ],
    ids=["bytes", "array"],
)
def test_more_than_two_gibibytes(flow, make, check):
    """An artifact of 2.25 GiB is stored once, and stored and read back with under two copies in memory."""
    skip_without_room(memory=9e9, disk=12e9)
    script = flow(flow_source(STEPS, head=HEAD, start=make, end=check))
    script("run", timeout=900)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 1.9 * SIZE  # of the largest process
    [size] = script.sql("select size_bytes from artifact_values where name = 'big'")
    assert SIZE <= size < SIZE + 4096
    assert (script.folder / "flowstore.db").stat().st_size < 1.05 * SIZE
    script("resume", "end", timeout=900)
    assert (script.folder / "flowstore.db").stat().st_size < 1.05 * SIZE
