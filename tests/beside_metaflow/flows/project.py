#: run
#: --branch new run
#: --production run
#: --production --branch newer run
from metaflow import FlowSpec, Parameter, current, project, step


def from_project(context):
    return "%s/%s" % (current.project_name, current.branch_name)


@project(name="demo_project")
class ProjectFlow(FlowSpec):
    """A flow knows its project, in its steps and in the defaults of its parameters."""

    default = Parameter("default", default=from_project)

    @step
    def start(self):
        self.facts = [
            current.project_name,
            current.branch_name,
            current.project_flow_name,
            current.is_production,
            current.is_user_branch,
        ]
        self.next(self.end)

    @step
    def end(self):
        print(self.facts, self.default)


if __name__ == "__main__":
    ProjectFlow()
