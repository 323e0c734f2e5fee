#: run
#! successful: a task whose failure was caught counts as a success
from metaflow import FlowSpec, catch, retry, step, timeout


class CatchFlow(FlowSpec):
    """Failures of each kind that are caught: an exception, a kill, a time that ran out."""

    @step
    def start(self):
        self.params = range(3)
        self.next(self.compute, foreach="params")

    @catch(var="compute_failed")
    @step
    def compute(self):
        self.div = self.input
        self.x = 5 / self.div
        self.next(self.join)

    @step
    def join(self, inputs):
        for one in inputs:
            if one.compute_failed:
                print("compute failed for parameter: %d" % one.div)
        self.next(self.killed)

    @catch(var="killed_failed", print_exception=False)
    @retry(times=1, minutes_between_retries=0)
    @step
    def killed(self):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
        self.next(self.slow)

    @catch(print_exception=False, var="late")
    @timeout(seconds=1)
    @step
    def slow(self):
        import time

        time.sleep(30)
        self.next(self.end)

    @step
    def end(self):
        print("did not survive:", self.killed_failed is not None)
        print("timed out" if self.late else "in time")


if __name__ == "__main__":
    CatchFlow()
