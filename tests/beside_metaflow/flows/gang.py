#: run
#! /metadata/: which names tell of a gang's tasks differs
from metaflow import FlowSpec, current, parallel, step


class GangFlow(FlowSpec):
    """Tasks that run all at once and know of each other."""

    @step
    def start(self):
        self.next(self.together, num_parallel=3)

    @parallel
    @step
    def together(self):
        self.node = current.parallel.node_index
        self.nodes = current.parallel.num_nodes
        self.next(self.join)

    @step
    def join(self, inputs):
        self.all = sorted(one.node for one in inputs)
        self.next(self.end)

    @step
    def end(self):
        print(self.all)


if __name__ == "__main__":
    GangFlow()
