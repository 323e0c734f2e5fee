#! /ask/16: adding no tags at all is no error
#: run --tag crazy_test
#: METAFLOW_USER=anne run --tag hers
from metaflow import FlowSpec, current, step


class TagFlow(FlowSpec):
    """Tags that are given, changed by the Client, and seen inside."""

    @step
    def start(self):
        self.inside = sorted(current.tags)
        print(current.username, current.namespace, current.is_running_flow, current.flow_name)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    TagFlow()
