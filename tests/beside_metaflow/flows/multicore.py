#: run
from metaflow import FlowSpec, parallel_imap_unordered, parallel_map, profile, resources, step


class BigSum(FlowSpec):
    """Functions on several cores inside a step."""

    @resources(memory=1000, cpu=2)
    @step
    def start(self):
        matrix = [[row * column for column in range(20)] for row in range(20)]
        parts = parallel_map(lambda row: sum(matrix[row]), range(0, 20))
        self.sum = sum(parts)
        self.unordered = sorted(parallel_imap_unordered(lambda number: number + 1, range(5), max_parallel=2))
        took = {}
        with profile("part", stats_dict=took):
            pass
        self.measured = sorted(took)
        self.next(self.end)

    @step
    def end(self):
        print("The sum is %f." % self.sum)


if __name__ == "__main__":
    BigSum()
