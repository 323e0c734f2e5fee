#: run
#: run --kind fast
#: run --kind none
#! /parents: of a loop Metaflow names all of its tasks, flowstore the one before
#! /children: of a loop Metaflow names all of its tasks, flowstore the one after
#! /stderr: each words its own error
from metaflow import FlowSpec, Parameter, step


class SwitchFlow(FlowSpec):
    """A step that chooses what follows, and one that goes back to itself."""

    kind = Parameter("kind", default="slow")

    @step
    def start(self):
        self.count = 0
        self.next({"slow": self.slow, "fast": self.fast}, condition="kind")

    @step
    def slow(self):
        self.way = "slowly"
        self.next(self.loop)

    @step
    def fast(self):
        self.way = "quickly"
        self.next(self.loop)

    @step
    def loop(self):
        self.count += 1
        self.again = "yes" if self.count < 3 else "no"
        self.next({"yes": self.loop, "no": self.end}, condition="again")

    @step
    def end(self):
        print(self.way, self.count)


if __name__ == "__main__":
    SwitchFlow()
