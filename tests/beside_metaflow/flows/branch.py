#: run
from metaflow import FlowSpec, step


class BranchFlow(FlowSpec):
    """Branches within branches, and a join that reads inputs in every way."""

    @step
    def start(self):
        self.shared = "from the start"
        self.next(self.left, self.right)

    @step
    def left(self):
        self.x = 1
        self.next(self.inner_a, self.inner_b)

    @step
    def inner_a(self):
        self.y = "a"
        self.next(self.inner_join)

    @step
    def inner_b(self):
        self.y = "b"
        self.next(self.inner_join)

    @step
    def inner_join(self, inputs):
        self.ys = sorted(one.y for one in inputs)  # branches come in any order
        self.merge_artifacts(inputs, exclude=["y"])
        self.next(self.join)

    @step
    def right(self):
        self.x = 2
        self.next(self.join)

    @step
    def join(self, inputs):
        print("left is %s, right is %s" % (inputs.inner_join.x, inputs.right.x))
        print("there are", len(list(inputs)), inputs[0].x in (1, 2))
        self.total = sum(one.x for one in inputs)
        self.shared = inputs[0].shared
        self.next(self.end)

    @step
    def end(self):
        print(self.total, self.shared)


if __name__ == "__main__":
    BranchFlow()
