#: run
#: check
#: show
#! show: flowstore shows no graph that is wrong
from metaflow import FlowSpec, step


class BadFlow(FlowSpec):
    """A branch that is never joined: nothing runs."""

    @step
    def start(self):
        self.next(self.a, self.b)

    @step
    def a(self):
        self.next(self.end)

    @step
    def b(self):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    BadFlow()
