"""Three steps that do nothing much."""

from flowstore import FlowSpec, step


class Hello(FlowSpec):
    @step
    def start(self) -> None:
        self.x = 1
        self.next(self.work)

    @step
    def work(self) -> None:
        self.y = self.x + 1
        self.next(self.end)

    @step
    def end(self) -> None:
        print(self.y)


if __name__ == "__main__":
    Hello()
