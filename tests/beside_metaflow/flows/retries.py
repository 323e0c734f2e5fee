#! successful: a task whose failure was caught counts as a success
#: run
#: run --with retry:times=1,minutes_between_retries=0
from metaflow import FlowSpec, catch, current, retry, step


class RetryFlow(FlowSpec):
    """Attempts that fail before one succeeds, and one that never does."""

    @retry(times=2, minutes_between_retries=0)
    @step
    def start(self):
        self.count = current.retry_count
        print("attempt", current.retry_count)
        if current.retry_count < 2:
            raise ValueError("not yet")
        self.next(self.caught)

    @catch(var="failed")
    @retry(times=1, minutes_between_retries=0)
    @step
    def caught(self):
        self.kept = "set before"
        raise KeyError("never")
        self.next(self.fine)

    @catch(var="failed_too")
    @step
    def fine(self):
        print("caught:", type(self.failed) is not type(None), bool(self.failed))
        print(hasattr(self, "kept"))
        self.failed = None
        self.next(self.end)

    @retry(times=0)
    @step
    def end(self):
        print(self.failed_too)


if __name__ == "__main__":
    RetryFlow()
