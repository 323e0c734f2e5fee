"""A flow that all versions of Metaflow run: their folders are the fixtures of `test_metaflow_history`."""

import collections
import sys

from metaflow import FlowSpec, Parameter, catch, retry, step


class OldFlow(FlowSpec):
    alpha = Parameter("alpha", default=0.5, type=float)
    label = Parameter("label-text", default="plain")

    @retry(times=1, minutes_between_retries=0)
    @step
    def start(self):
        print("out of start")
        print("err of start", file=sys.stderr)
        self.table = {"a": [1, 2.5, None], "b": (1, "t"), 3: {4}}
        self.blob = b"\x00\xff" * 10
        self.fruits = ["apple", "pear"]
        self.obj = collections.OrderedDict(a=1)
        from metaflow import current

        if current.retry_count == 0:
            raise ValueError("the first try fails")
        self.next(self.left, self.right)

    @step
    def left(self):
        self.side = "left"
        self.next(self.each, foreach="fruits")

    @step
    def each(self):
        self.juice = self.input + " juice"
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.juices = [i.juice for i in inputs]
        self.merge_artifacts(inputs, exclude=["juice"])
        self.next(self.both)

    @catch(var="trouble")
    @step
    def right(self):
        self.value = 1
        if self.value:
            raise KeyError("caught")
        self.next(self.both)

    @step
    def both(self, inputs):
        self.juices = inputs.gather.juices
        self.trouble = str(inputs.right.trouble)
        self.alpha_seen = self.alpha
        self.next(self.last)

    @step
    def last(self):
        if self.label == "bad":
            raise ZeroDivisionError("it is bad")
        self.next(self.end)

    @step
    def end(self):
        print("done", self.juices)


if __name__ == "__main__":
    OldFlow()
