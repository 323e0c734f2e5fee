"""The flow whose runs are in the stores beside it; see `test_old_stores.py`."""

import os

from flowstore import FlowSpec, Parameter, catch, retry, step


class Old(FlowSpec):
    """Sets an artifact of each codec, fans out, fails once when it is asked to."""

    alpha = Parameter("alpha", default=0.5)
    fail = Parameter("fail", default=False)
    kind = "constant"

    @step
    def start(self):
        self.items = ["a", "b", "ü"]
        self.metrics = {"accuracy": self.alpha, "deep": [1, None, {"x": "y"}]}
        self.raw = b"\x00\xff" * 8
        self.large = b"0123456789" * 10_000
        self.pickled = (1, 2)
        print("hello\nworld")
        self.next(self.body, foreach="items")

    @retry(times=1, minutes_between_retries=0)
    @catch(var="problem", print_exception=False)
    @step
    def body(self):
        if self.index == 1:
            os._exit(3)
        self.doubled = self.input * 2
        self.next(self.join)

    @step
    def join(self, inputs):
        self.merge_artifacts(inputs, include=["metrics", "large"])
        self.found = [getattr(task, "doubled", None) for task in inputs]
        self.next(self.end)

    @step
    def end(self):
        if self.fail and not os.path.exists("mended"):  # noqa: PTH110  # as users write
            os._exit(4)
        self.answer = len(self.found)


if __name__ == "__main__":
    Old()
