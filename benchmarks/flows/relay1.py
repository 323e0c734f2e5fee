"""A large artifact that one step after the first inherits, and does not touch."""

import os

from flowstore import FlowSpec, Parameter, step


class Relay1(FlowSpec):
    size = Parameter("size", type=int, default=1 << 20)

    @step
    def start(self) -> None:
        self.value = os.urandom(self.size)
        self.next(self.end)

    @step
    def end(self) -> None:
        print("here")


if __name__ == "__main__":
    Relay1()
