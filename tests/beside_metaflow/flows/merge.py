#: run
#: run --bad conflict
#: run --bad missing
#: run --bad both
#: run --bad outside
from metaflow import FlowSpec, Parameter, step


class MergeFlow(FlowSpec):
    """`merge_artifacts` carries over what is unambiguous, and refuses the rest."""

    bad = Parameter("bad", default="")

    @step
    def start(self):
        self.pass_down = "a"
        self.next(self.a, self.b)

    @step
    def a(self):
        self.common = 5
        self.x = 1
        self.y = 3
        self.from_a = 6
        self.next(self.join)

    @step
    def b(self):
        self.common = 5
        self.x = 2
        self.y = 4
        self.next(self.join)

    @step
    def join(self, inputs):
        self.x = inputs.a.x
        if self.bad == "conflict":
            self.merge_artifacts(inputs)
        if self.bad == "missing":
            self.merge_artifacts(inputs, include=["no_such_thing"])
        if self.bad == "both":
            self.merge_artifacts(inputs, include=["common"], exclude=["y"])
        self.merge_artifacts(inputs, exclude=["y"])
        print(self.x, self.pass_down, self.common, self.from_a)
        self.next(self.c)

    @step
    def c(self):
        if self.bad == "outside":
            self.merge_artifacts([])
        self.next(self.d, self.e)

    @step
    def d(self):
        self.conflicting = 7
        self.next(self.join2)

    @step
    def e(self):
        self.conflicting = 8
        self.next(self.join2)

    @step
    def join2(self, inputs):
        self.merge_artifacts(inputs, include=["pass_down", "common"])
        self.next(self.end)

    @step
    def end(self):
        print(hasattr(self, "x"), self.pass_down, self.common)


if __name__ == "__main__":
    MergeFlow()
