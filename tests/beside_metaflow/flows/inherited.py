#: run
from metaflow import FlowSpec, Parameter, retry, step


class Base(FlowSpec):
    """Steps and parameters for others."""

    alpha = Parameter("alpha", default=1)

    @step
    def start(self):
        self.order = ["base start"]
        self.next(self.middle)

    @step
    def middle(self):
        self.order = self.order + ["base middle"]
        self.next(self.end)

    @step
    def end(self):
        print(self.order, self.alpha)


class InheritedFlow(Base):
    """Overrides a step, and adds a parameter."""

    beta = Parameter("beta", default="b")

    @retry(times=1, minutes_between_retries=0)
    @step
    def middle(self):
        self.order = self.order + ["own middle", self.beta]
        self.next(self.end)


if __name__ == "__main__":
    InheritedFlow()
