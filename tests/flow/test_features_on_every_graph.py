"""Everything that a user can add to a flow works at once, on every shape of graph and however tasks start."""

from __future__ import annotations

import pytest

from support.flows import BRANCH, FOREACH, GANG, LINEAR, METHODS, flow_source

NESTED = {
    "start": "self.next(self.outer, foreach='xs')",
    "outer": "self.next(self.inner, foreach='xs')",
    "inner": "self.next(self.join1)",
    "join1": "self.next(self.join2)",
    "join2": "self.next(self.end)",
    "end": "",
}
SWITCH = {
    "start": "self.next({1: self.again, 2: self.end}, condition='turn')",
    "again": "self.next({1: self.again, 2: self.end}, condition='turn')",
    "end": "",
}
SHAPES = {
    "linear": (LINEAR, 2),
    "branch": (BRANCH, 5),
    "foreach": (FOREACH, 5),
    "nested foreach": (NESTED, 11),
    "gang": (GANG, 5),
    "switch": (SWITCH, 3),
}
HEAD = """
    @user_step_decorator
    def counted(step_name, flow, inputs=None, attributes=None):
        with open("executed", "a") as file:
            file.write(f"{step_name} {os.environ['TOKEN']} {inputs is not None}\\n")
        yield
        if inputs is not None:
            flow.merge_artifacts(inputs, include=["xs"])

    class everywhere(FlowMutator):
        def pre_mutate(self, mutable_flow):
            mutable_flow.add_parameter("added", Parameter("added", default=1))

        def mutate(self, mutable_flow):
            for name, step in mutable_flow.steps:
                step.add_decorator(counted)
                step.add_decorator("retry", deco_kwargs={"times": 1})
                step.add_decorator("secrets:sources=[\\"env-file:keys.env\\"]")
"""
ONCE = "if current.retry_count == 0: raise OSError(os.environ['TOKEN'])"


@pytest.mark.long
@pytest.mark.parametrize(
    ("shape", "method"), [*((shape, "fork") for shape in SHAPES), ("nested foreach", "spawn"), ("gang", "spawn")]
)
def test_everything_at_once(flow, tmp_path, shape, method):
    """Decorators of one's own, mutators, secrets, retries, and first and last steps of other names."""
    (tmp_path / "keys.env").write_text("TOKEN=secret-token\n")
    tails, tasks = SHAPES[shape]
    bodies = {"start": "self.xs = [1, 2]; self.turn = 1", "end": f"{ONCE}\nself.last = self.added"}
    if shape == "gang":
        bodies["body"] = "@parallel"
    if shape == "switch":
        bodies["again"] = "self.turn = 2"
    source = flow_source(tails, head=HEAD, **bodies).replace("\nclass F(", "\n@everywhere\nclass F(")
    for part, name in (("start", "begin"), ("end", "finish")):
        source = source.replace(f"    @step\n    def {part}(", f"    @step({part}=True)\n    def {name}(")
        source = source.replace(f"self.{part}", f"self.{name}")
    script = flow(source)
    said = script("run", "--added", "5", *METHODS[method])
    run = script.client()
    assert (run.data.last, run.end_task.current_attempt, sum(script.counts().values())) == (5, 1, tasks)
    assert "secret-token" not in said.stdout + said.stderr
    lines = script.executed()
    assert len(lines) == tasks + 1  # one for the attempt that failed
    assert all(line == f"{line.split()[0]} secret-token {line.startswith('join')}" for line in lines)
