#: run
#: run --max-workers 1
#: run --max-num-splits 2
#! /client/2: Metaflow records a task that asks for too many as successful, and its run as never finished
from metaflow import FlowSpec, current, step


class ForeachFlow(FlowSpec):
    """A foreach within a foreach."""

    @step
    def start(self):
        self.titles = ["Stranger Things", "House of Cards", "Narcos"]
        self.next(self.outer, foreach="titles")

    @step
    def outer(self):
        self.title = "%s processed" % self.input
        self.letters = list(self.input[:2])
        self.next(self.inner, foreach="letters")

    @step
    def inner(self):
        self.stack = self.foreach_stack()
        self.place = (self.index, self.input)
        print(current.step_name, self.title, self.index, self.input)
        self.next(self.inner_join)

    @step
    def inner_join(self, inputs):
        self.title = inputs[0].title
        self.word = "".join(one.place[1] for one in inputs)
        self.at = self.index
        self.next(self.join)

    @step
    def join(self, inputs):
        self.results = [(one.title, one.word, one.at) for one in inputs]
        self.outside = self.index, self.input
        self.next(self.end)

    @step
    def end(self):
        print(self.results)


if __name__ == "__main__":
    ForeachFlow()
