#: run
#: run --should-fail true
from metaflow import FlowSpec, Parameter, exit_hook, step


def success_print():
    with open("said", "a") as file:
        file.write("success\n")


def failure_print(run):
    with open("said", "a") as file:
        file.write("failure %s\n" % [task.successful for step in run for task in step])


@exit_hook(on_error=[failure_print], on_success=[success_print])
class ExitHookFlow(FlowSpec):
    """Functions that are called at the end of a run."""

    should_fail = Parameter(name="should-fail", default=False)

    @step
    def start(self):
        if self.should_fail:
            raise Exception("failing as expected")
        self.next(self.end)

    @step
    def end(self):
        print("Done!")


if __name__ == "__main__":
    ExitHookFlow()
