"""One large artifact, assigned in a task and loaded in the next; the second writes how long it took in between."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flowstore import FlowSpec, Parameter, step


def make(kind: str, size: int) -> Any:
    """A value of random content: `size` bytes, as text-free `bytes` or float64 array, or a frame of `size` rows."""
    if kind == "bytes":
        return os.urandom(size)
    if kind == "wide":
        numbers = np.random.default_rng(1).normal(size=(50, size))
        return pd.DataFrame(numbers, columns=[f"column {n}" for n in range(size)])
    random = np.random.default_rng()
    if kind == "array":
        return random.random(size // 8)
    columns = {name: random.normal(size=size) for name in ("x", "y", "z")}
    return pd.DataFrame({"id": np.arange(size), **columns})


class Artifact(FlowSpec):
    kind = Parameter("kind", default="bytes")
    size = Parameter("size", type=int, default=1 << 20)

    @step
    def start(self) -> None:
        value = make(self.kind, self.size)
        self.assigned_at = time.monotonic()  # the same clock in all processes of a machine
        self.value = value
        self.next(self.end)

    @step
    def end(self) -> None:
        length = len(self.value)
        took_s = time.monotonic() - self.assigned_at
        print(length)
        if self.kind == "wide":
            pd.testing.assert_frame_equal(self.value, make(self.kind, self.size), check_exact=True)
        Path(os.environ["BENCH_REPORT"]).write_text(str(took_s), "utf-8")


if __name__ == "__main__":
    Artifact()
