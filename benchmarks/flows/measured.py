"""A foreach whose tasks each set a dict of so many numbers, or texts."""

from typing import Any

from flowstore import FlowSpec, Parameter, step


class Measured(FlowSpec):
    tasks = Parameter("tasks", type=int, default=10)
    entries = Parameter("entries", type=int, default=5)
    texts = Parameter("texts", type=bool, default=False)

    @step
    def start(self) -> None:
        self.indices = list(range(self.tasks))
        self.next(self.work, foreach="indices")

    @step
    def work(self) -> None:
        numbers = [self.input + n / 7 for n in range(self.entries)]
        self.metrics = {f"entry_{n}": str(number) if self.texts else number for n, number in enumerate(numbers)}
        self.next(self.join)

    @step
    def join(self, inputs: Any) -> None:
        self.joined = sum(1 for _ in inputs)
        self.next(self.end)

    @step
    def end(self) -> None:
        print(self.joined)


if __name__ == "__main__":
    Measured()
