"""A flow with all that a folder of the newest Metaflow can hold; it is run by `test_beside_metaflow`."""

import collections
import os
import sys

from metaflow import FlowSpec, Parameter, card, catch, current, parallel, retry, step
from metaflow.cards import Markdown


class NewFlow(FlowSpec):
    alpha = Parameter("alpha", default=0.5, type=float)
    constant = 3

    @card
    @retry(times=2, minutes_between_retries=0)
    @step
    def start(self):
        print("attempt", current.retry_count)
        print("to stderr", file=sys.stderr)
        if current.retry_count == 0:
            raise ValueError("the first try fails")
        self.plain = {"a": [1, 2.5, None], "b": (1, "t"), 3: {4}, "n": float("inf")}
        self.object = collections.OrderedDict(a=1)
        self.large = os.urandom(1 << 20) * int(os.environ.get("MEGABYTES", "1"))
        self.rows, self.columns = ["r0", "r1"], [10, 20, 30]
        self.next(self.left, self.right)

    @step
    def left(self):
        self.next(self.row, foreach="rows")

    @step
    def row(self):
        self.label = self.input
        self.next(self.cell, foreach="columns")

    @step
    def cell(self):
        self.text = f"{self.label}/{self.input}"
        print("cell", self.text, end="")
        self.next(self.row_join)

    @step
    def row_join(self, inputs):
        self.cells = [i.text for i in inputs]
        self.merge_artifacts(inputs, exclude=["text"])
        self.next(self.join_rows)

    @step
    def join_rows(self, inputs):
        self.all_cells = [i.cells for i in inputs]
        self.merge_artifacts(inputs, exclude=["cells", "label"])
        self.next(self.both)

    @catch(var="trouble")
    @card(type="blank", id="mine")
    @step
    def right(self):
        current.card["mine"].append(Markdown("# of mine"))
        self.value = 1
        if self.value:
            raise KeyError("caught")
        self.next(self.both)

    @step
    def both(self, inputs):
        self.all_cells = inputs.join_rows.all_cells
        self.merge_artifacts(inputs, exclude=["trouble", "value", "all_cells"])
        self.next(self.split)

    @step
    def split(self):
        self.next(self.gang, num_parallel=2)

    @parallel
    @step
    def gang(self):
        self.node = current.parallel.node_index
        self.next(self.after)

    @step
    def after(self, inputs):
        self.nodes = sorted(i.node for i in inputs)
        self.count = 0
        self.all_cells = inputs[0].all_cells
        self.next(self.loop)

    @step
    def loop(self):
        self.count += 1
        self.again = "yes" if self.count < 3 else "no"
        self.next({"yes": self.loop, "no": self.last}, condition="again")

    @step
    def last(self):
        if os.environ.get("FAILS"):
            raise ZeroDivisionError("it is bad")
        self.next(self.end)

    @step
    def end(self):
        print("done", self.count)


if __name__ == "__main__":
    NewFlow()
