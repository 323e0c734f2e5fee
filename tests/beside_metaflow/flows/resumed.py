#: run
#: resume
#: FIXED=1 resume
#: resume start
#: run --alpha 3
#: resume b
#: resume --alpha 5
#: resume no_such_step
#! no_such_step: wrong usage is exit code 2
#! KILLED BY ORCHESTRATOR: flowstore lets tasks that run end
#! does not exist: Metaflow names the step that would have followed, which is not there
import os

from metaflow import FlowSpec, Parameter, current, step


class DebugFlow(FlowSpec):
    """A failure that is repaired, and runs that take over what had succeeded."""

    alpha = Parameter("alpha", default=1)

    @step
    def start(self):
        self.resumed = current.origin_run_id is not None
        self.next(self.a, self.b)

    @step
    def a(self):
        self.x = self.alpha
        self.next(self.join)

    @step
    def b(self):
        self.x = int("2" if "FIXED" in os.environ else "2fail")
        self.next(self.join)

    @step
    def join(self, inputs):
        print("total is %d" % sum(one.x for one in inputs))
        self.next(self.work)

    @step
    def work(self):
        self.items = "ab"
        self.next(self.each, foreach="items")

    @step
    def each(self):
        self.letter = self.input
        self.next(self.collect)

    @step
    def collect(self, inputs):
        self.word = "".join(one.letter for one in inputs)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    DebugFlow()
