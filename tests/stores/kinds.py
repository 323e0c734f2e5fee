"""The flow whose runs flowstore 0.1.0 left in `v6-0.1.0.db.gz`; see `test_old_stores.py`."""

import numpy as np
import pandas as pd

from flowstore import FlowSpec, Parameter, catch, step


class Model:
    """A class of the flow's file, which is pickled by value."""

    def __init__(self, weight):
        self.weight = weight

    def predict(self, x):
        """Return the prediction for a number."""
        return self.weight * x


class Kinds(FlowSpec):
    """Sets values that later versions store otherwise."""

    alpha = Parameter("alpha", default=0.5)

    @step
    def start(self):
        self.model = Model(self.alpha)
        self.kind_of_model = Model
        self.pair = (1, 2.5)
        self.nested = {"scores": (0.25, 0.75), 1: "one"}
        self.scalar = np.float64(0.125)
        self.whole = np.int64(7)
        self.metrics = {"accuracy": self.alpha}
        index = pd.period_range("2026-01", periods=3, freq="M")
        self.frame = pd.DataFrame({"x": [1, 2, 3]}, index=index)
        setattr(self, "val/loss", 0.75)
        self.next(self.fails)

    @catch(var="problem", print_exception=False)
    @step
    def fails(self):
        self.missing = {}["no\nmore"]
        self.next(self.end)

    @step
    def end(self):
        self.sum = self.model.predict(4)


if __name__ == "__main__":
    Kinds()
