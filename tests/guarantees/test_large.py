"""Artifacts over 2 GiB, where there is room for them."""

from __future__ import annotations

import resource

import pytest

from support.flows import flow_source
from support.processes import skip_without_room

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200), pytest.mark.fresh]

STEPS = {
    "start": "self.next(self.again)",
    "again": "self.next(self.other)",
    "other": "self.next(self.end)",
    "end": "",
}
GIB = 1 << 30
HEAD = "GIB = 1 << 30"


@pytest.mark.parametrize(
    ("make", "check"),
    [
        ("self.big = bytes(3 * GIB)", "assert len(self.big) == 3 * GIB and not any(self.big[::GIB // 8])"),
        (
            "import numpy; self.big = numpy.arange(3 * GIB // 8)",
            "assert self.big.nbytes == 3 * GIB and self.big[-1] == len(self.big) - 1",
        ),
    ],
    ids=["bytes", "array"],
)
def test_three_gibibytes(flow, make, check):
    """An artifact of 3 GiB is stored once, and stored and read back with under two copies in memory."""
    skip_without_room(memory=12e9, disk=16e9)
    script = flow(flow_source(STEPS, head=HEAD, start=make, other=check, end=check))
    script("run", timeout=900)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 5.5 * GIB  # of the largest process
    [size] = script.sql("select size_bytes from artifact_values where name = 'big'")
    assert 3 * GIB <= size < 3 * GIB + 4096
    assert (script.folder / "flowstore.db").stat().st_size < 3.2 * GIB
    script("resume", "end", timeout=900)
    assert (script.folder / "flowstore.db").stat().st_size < 3.2 * GIB
