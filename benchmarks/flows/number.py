"""A flow whose one artifact is a number."""

from flowstore import FlowSpec, step


class Number(FlowSpec):
    @step
    def start(self) -> None:
        self.x = 1
        self.next(self.end)

    @step
    def end(self) -> None:
        pass


if __name__ == "__main__":
    Number()
