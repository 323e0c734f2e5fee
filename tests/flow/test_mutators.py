"""Mutators change parameters and decorators of a flow before it runs, wherever its tasks run."""

from __future__ import annotations

import pytest

import flowstore
from support.flows import LINEAR, METHODS, flow_source

HEAD = """
    @user_step_decorator
    def noting(step_name, flow, inputs=None, attributes=None):
        flow.notes = [*getattr(flow, "notes", []), f"{step_name} {attributes}"]
        yield

    class robust(FlowMutator):
        def init(self, *args, **kwargs):
            self.times = kwargs.get("times", 1)

        def mutate(self, mutable_flow):
            for name, step in mutable_flow.steps:
                step.add_decorator("retry", deco_kwargs={"times": self.times}, duplicates=step.IGNORE)

    class dataset(StepMutator):
        def init(self, *args, **kwargs):
            self.args, self.kwargs = args, kwargs

        def mutate(self, mutable_step):
            mutable_step.add_decorator(noting, deco_kwargs=self.kwargs, duplicates=mutable_step.ERROR)
            mutable_step.add_decorator("environment", deco_kwargs={"vars": {"DATA": "here"}})

    class sized(FlowMutator):
        def pre_mutate(self, mutable_flow):
            mutable_flow.add_parameter("size", Parameter("size", default=7))
            assert mutable_flow.remove_parameter("old") and not mutable_flow.remove_parameter("none")
            mutable_flow.add_decorator("project", deco_kwargs={"name": "mutated"})
"""


def decorated(source, *lines):
    """The source with lines above the class."""
    return source.replace("\nclass F(", "\n" + "\n".join(lines) + "\nclass F(")


@pytest.mark.parametrize("method", ["fork", "spawn", "reused fork"])
def test_decorators_are_added_to_steps(flow, method):
    """A mutator of the flow adds retries to every step, one of a step a decorator of one's own and variables."""
    start = "@dataset(url='u')\nimport os\nif current.retry_count < 2: raise OSError\nself.data = os.environ['DATA']"
    script = flow(decorated(flow_source(LINEAR, head=HEAD, start=start), "@robust(times=2)"))
    script("run", *METHODS[method])
    run = script.client()
    assert (run.data.data, run.data.notes) == ("here", ["start {'url': 'u'}"])
    assert run["start"].task.current_attempt == 2


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_parameters_are_added_and_removed(flow, method):
    """An added parameter is an option like any other, reaches all tasks, and is resumed and deployed with the flow."""
    source = flow_source(LINEAR, head=HEAD, members="old = Parameter('old', default=1)", start="self.x = self.size")
    script = flow(decorated(source, "@sized"))
    script("run", "--size", "3", *METHODS[method])
    assert (script.client().data.x, script.client().parameters) == (3, {"size": 3})
    assert "project:mutated" in script.client().system_tags
    assert "no option --old" in script("run", "--old", "1", expect=2).stderr.lower()
    script("resume", "start", *METHODS[method])
    assert script.client(2).data.x == 3
    script("deploy", "create")
    script("deploy", "trigger")
    flowstore.namespace(None)
    assert script.client(3).data.x == 7


ORDER = """
    def noted(kind, name):
        def pre_mutate(self, target): print("pre", name)
        def mutate(self, target): print("mutate", name)
        return type(name, (kind,), {"pre_mutate": pre_mutate, "mutate": mutate})
    f1, f2, f3 = (noted(FlowMutator, f"f{n}") for n in (1, 2, 3))
    s1, s2 = (noted(StepMutator, f"s{n}") for n in (1, 2))

    @f3
    class Base(FlowSpec):
        pass
"""


def test_the_order_of_mutators(flow):
    """Those of base classes, then those of the class from the lowest to the topmost, then those of steps likewise."""
    source = flow_source(LINEAR, head=ORDER, start="@s1\n@s2").replace("class F(FlowSpec)", "class F(Base)")
    lines = flow(decorated(source, "@f1", "@f2"))("check").stdout.splitlines()
    names = ["f3", "f2", "f1", "s2", "s1"]
    assert lines == [*(f"pre {name}" for name in names), *(f"mutate {name}" for name in names), "F is valid."]


LOOKING = """
    class looking(FlowMutator):
        def pre_mutate(self, mutable_flow):
            print([name for name, _ in mutable_flow.parameters], mutable_flow.limit)
            print(mutable_flow.has_decorator("schedule"), [spec[0] for spec in mutable_flow.decorator_specs])

        def mutate(self, mutable_flow):
            for name, step in mutable_flow.steps:
                for deco, _full_name, args, options in step.decorator_specs:
                    print(name, deco, args, options)
                    if deco == "resources":
                        step.add_decorator(deco, deco_kwargs={**options, "cpu": 2}, duplicates=step.OVERRIDE)
                print(name, step.has_decorator("retry"), step.remove_decorator("retry"), step.has_decorator("retry"))
                assert step.flow.limit == mutable_flow.limit == 5
"""


def test_a_mutator_looks_at_the_flow(flow):
    """It sees parameters, constants and decorators, those of `--with` too, and overrides or removes them."""
    members = "limit = 5\nsize = Parameter('size', default=1)"
    source = flow_source(LINEAR, head=LOOKING, members=members, start="@resources(cpu=16, memory=8)")
    script = flow(decorated(source, "@looking", "@schedule(daily=True)"))
    said = script("--with", "retry:times=3", "run").stdout
    assert "['size'] 5\nTrue ['schedule']\n" in said
    assert "start resources [] {'cpu': 16, 'memory': 8}\nstart True True False\n" in said
    [task] = script.client()["start"]
    assert task.metadata_dict["resources"] == '{"cpu": 2, "memory": 8}'


def test_it_is_added_with_an_option(flow):
    """`--with` takes a mutator of steps as it takes a decorator."""
    script = flow(flow_source(LINEAR, head=HEAD))
    script("run", "--with", "dataset:url=u")
    assert script.client().data.notes == ["start {'url': 'u'}", "end {'url': 'u'}"]


WRONG = {
    "error": ("step.add_decorator('catch', duplicates=step.ERROR)", "Step start has @catch already"),
    "unknown": ("step.add_decorator('ctach')", "There is no decorator 'ctach'"),
    "option": ("step.add_decorator('retry', deco_kwargs={'tiems': 1})", "@retry has no option tiems"),
    "late": ("flow.add_parameter('x', Parameter('x'))", "A parameter can be added in pre_mutate only"),
    "kept": ("self.kept.add_parameter('x', Parameter('x'))", "A parameter can be added in pre_mutate only: after that"),
    "its own": ("{}['x']", "KeyError: 'x'. This was raised by wrong.mutate."),
}


@pytest.mark.parametrize(("statement", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_are_found_before_a_run_exists(flow, statement, message):
    """One message says which mutator, and where."""
    head = f"""
        class wrong(FlowMutator):
            def pre_mutate(self, flow):
                self.kept = flow

            def mutate(self, flow):
                step = dict(flow.steps)["start"]
                {statement}
    """
    script = flow(decorated(flow_source(LINEAR, head=head, start="@catch"), "@wrong"))
    assert message in script("check", expect=2).stderr
    assert message in script("run", expect=2).stderr
    assert not script.db.exists()


def test_flows_do_not_share_what_a_mutator_changes(flow):
    """A base class that two flows share has its own decorators; each flow is changed by its own mutators."""
    head = (
        HEAD
        + """
    class Base(FlowSpec):
        @step
        def start(self):
            self.next(self.end)
        @step
        def end(self):
            pass

    @robust
    class Other(Base):
        pass

    Other(use_cli=False)
    """
    )
    script = flow(flow_source({}, head=head, members="x = 1").replace("class F(FlowSpec)", "class F(Base)"))
    script("run")
    assert script.client().end_task.current_attempt == 0


CONFIGURED = """
    class limiting(FlowMutator):
        def init(self, *args, **kwargs):
            self.note = kwargs["note"]

        def pre_mutate(self, mutable_flow):
            for name, value in mutable_flow.config.sizes.items():
                mutable_flow.add_parameter(name, Parameter(name, default=value))
            computed = Parameter("twice", default=config_expr("2 * config.sizes.wide"))
            mutable_flow.add_parameter("twice", computed)
            called = Parameter("called", default=lambda context: context.configs.config.note)
            mutable_flow.add_parameter("called", called)
            mutable_flow.add_decorator(project, deco_kwargs={"name": config_expr("config.note")})
            times = config_expr("config.retry.times")
            dict(mutable_flow.steps)["end"].add_decorator("retry", deco_kwargs={"times": times})

        def mutate(self, mutable_flow):
            [(attribute, config)] = mutable_flow.configs
            assert attribute == "config" and config == mutable_flow.config
            for name, step in mutable_flow.steps:
                step.add_decorator(noting, deco_kwargs={"note": self.note})
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_configs_reach_mutators_and_decorators(flow, method):
    """As options of mutators and of one's own decorators, and as attributes of what a mutator is given."""
    config = "Config('config', default_value={'note': 'n', 'sizes': {'wide': 3}, 'retry': {'times': 1}})"
    start = "@noting(note=config.note)\n@dataset(url=config.note)\nself.x = [self.wide, self.twice, self.called]"
    start += "\nself.project = current.project_name"
    head = HEAD.replace("duplicates=mutable_step.ERROR", "duplicates=mutable_step.OVERRIDE") + CONFIGURED
    source = flow_source(LINEAR, head=head, members=f"config = {config}", start=start)
    script = flow(decorated(source, "@limiting(note=config_expr('config.note'))"))
    script("run", *METHODS[method])
    data = script.client().data
    assert (data.x, data.project) == ([3, 6, "n"], "n")
    assert data.notes == ["start {'url': 'n'}", "end {'note': 'n'}"]
    script("--config-value", "config", '{"note": "m", "sizes": {"tall": 5}}', "run", "--wide", "1", expect=2)
