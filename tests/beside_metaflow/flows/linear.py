#: run
#: run --tag one --tag two:three
#: run missing
from metaflow import FlowSpec, step


class LinearFlow(FlowSpec):
    """One step after the other, with an artifact of each kind that is common."""

    limit = 3

    @step
    def start(self):
        self.text = "hello world"
        self.numbers = [1, 2.5, -3]
        self.mapping = {"a": (1, 2), 3: None}
        self.flags = {True, False}
        self.data = b"\x00\xff"
        self.next(self.middle)

    @step
    def middle(self):
        print("the text is", self.text)
        self.text = self.text.upper()
        self.numbers.append(self.limit)
        self.next(self.end)

    @step
    def end(self):
        print("the text is now", self.text)
        print("the numbers are", self.numbers)


if __name__ == "__main__":
    LinearFlow()
