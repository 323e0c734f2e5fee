"""A large artifact that ten steps after the first inherit, and do not touch."""

import os

from flowstore import FlowSpec, Parameter, step


class Relay10(FlowSpec):
    size = Parameter("size", type=int, default=1 << 20)

    @step
    def start(self) -> None:
        self.value = os.urandom(self.size)
        self.next(self.step1)

    @step
    def step1(self) -> None:
        self.next(self.step2)

    @step
    def step2(self) -> None:
        self.next(self.step3)

    @step
    def step3(self) -> None:
        self.next(self.step4)

    @step
    def step4(self) -> None:
        self.next(self.step5)

    @step
    def step5(self) -> None:
        self.next(self.step6)

    @step
    def step6(self) -> None:
        self.next(self.step7)

    @step
    def step7(self) -> None:
        self.next(self.step8)

    @step
    def step8(self) -> None:
        self.next(self.step9)

    @step
    def step9(self) -> None:
        self.next(self.end)

    @step
    def end(self) -> None:
        print("here")


if __name__ == "__main__":
    Relay10()
