"""A foreach of trivial tasks; the last one fails if it is told to."""

import os
from typing import Any

from flowstore import FlowSpec, Parameter, step


class Fanout(FlowSpec):
    tasks = Parameter("tasks", type=int, default=10)
    reads = Parameter("reads", type=int, default=0, help="Whether each task reads an artifact, 1 or 0")

    @step
    def start(self) -> None:
        self.factor = 2
        self.numbers = list(range(self.tasks))
        self.next(self.work, foreach="numbers")

    @step
    def work(self) -> None:
        if os.environ.get("BENCH_FAIL") and self.input == self.tasks - 1:
            raise RuntimeError("as asked")
        self.doubled = self.input * (self.factor if self.reads else 2)
        self.next(self.join)

    @step
    def join(self, inputs: Any) -> None:
        self.joined = sum(1 for _ in inputs)
        self.next(self.end)

    @step
    def end(self) -> None:
        print(self.joined)


if __name__ == "__main__":
    Fanout()
