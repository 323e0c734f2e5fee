#: run
#: run --with environment:vars={\"GIVEN\":\"2\"}
import os

from metaflow import FlowSpec, current, environment, step


class EnvironmentFlow(FlowSpec):
    """Variables of a step's processes."""

    @environment(vars={"GIVEN": "1", "OTHER": "x"})
    @step
    def start(self):
        self.given = os.environ.get("GIVEN"), os.environ.get("OTHER")
        self.next(self.end)

    @step
    def end(self):
        self.left = os.environ.get("GIVEN"), os.environ.get("OTHER")
        print(self.given, self.left, current.step_name)


if __name__ == "__main__":
    EnvironmentFlow()
