"""`Config`: values that decide how a flow is built, known before anything of it runs."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import sqlite3
import textwrap

import pytest

import flowstore
from flowstore import Config, GraphError, ParameterError, config_expr, environment
from flowstore.flow.expressions import ConfigValue
from support.flows import LINEAR, METHODS, flow_source

VALUES = {
    "project": "p",
    "alpha": 5,
    "times": 1,
    "retry": {"times": 2},
    "variables": {"FOO": "foo"},
    "parts": [{"a": 1}],
}
MEMBERS = """
    config = Config("config", default="config.json")
    alpha = Parameter("alpha", default=config.alpha)
    beta = Parameter("beta", default=config_expr("max(config.alpha + more for more in (0, 0.5))"))
    gamma = Parameter("gamma", default=lambda context: context.configs.config.project)
    constant = [config.alpha, {"more": config["parts"][0]["a"]}]
"""
BODY = """
    @retry(**config.retry)
    @environment(vars={"FOO": config.variables.FOO, "BAR": config_expr("double(config.alpha)")})
    @step
    def start(self):
        self.seen = [os.environ["FOO"], os.environ["BAR"], self.config.variables.FOO, self.config["parts"][0].a]
        self.parameters = [self.alpha, self.beta, self.gamma, self.constant]
        self.project = current.project_name
        if current.retry_count < 2:
            raise ValueError("again")
        self.next(self.end)

    @step
    def end(self):
        pass
"""
DECORATED = f"""
import os
from flowstore import *

def double(x):
    return 2 * x

@project(name=config_expr("config.project"))
class F(FlowSpec):{MEMBERS}{BODY}

if __name__ == "__main__":
    F()
"""
SEEN = ["foo", "10", "foo", 1]
PRINTING = flow_source(
    LINEAR,
    members="config = Config('config', default='config.json')",
    start="print('config is', self.config.to_dict())\n" + "self.alpha = self.config.alpha",
)


@pytest.fixture
def configured(flow):
    """Write a flow, and its config file."""

    def write(source=DECORATED, values=VALUES):
        script = flow(source)
        (script.folder / "config.json").write_text(values if isinstance(values, str) else json.dumps(values))
        return script

    return write


def plain(source="self.config", members="config = Config('config', default='config.json')", **bodies):
    """A flow whose start keeps a value."""
    return flow_source(LINEAR, members=members, start=f"self.x = {source}", **bodies)


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
def test_wherever_it_is_used(configured, options):
    """In decorators of steps and of the class, in defaults, at class level, in steps; however tasks start."""
    script = configured()
    script("run", *options)
    run = script.client()
    start = run["start"].task
    assert start.data.seen == SEEN
    assert start.data.parameters == [5, 5.5, "p", [5, {"more": 1}]]
    assert start.current_attempt == 2
    assert start.data.project == "p"
    assert "project:p" in run.system_tags
    assert run.parameters == {"alpha": 5, "beta": 5.5, "gamma": "p"}
    assert run.data.config == VALUES
    assert type(run.data.config) is dict


SOURCES = {
    "file": (["--config", "config", "other.json"], {}, 1),
    "value": (["--config-value", "config", '{"alpha": 2}'], {}, 2),
    "file in the environment": ([], {"FLOWSTORE_FLOW_CONFIG": '{"config": "other.json"}'}, 1),
    "value in the environment": ([], {"FLOWSTORE_FLOW_CONFIG_VALUE": '{"config": {"alpha": 3}}'}, 3),
    "text in the environment": ([], {"FLOWSTORE_FLOW_CONFIG_VALUE": json.dumps({"config": '{"alpha": 4}'})}, 4),
    "the command line first": (
        ["--config", "config", "other.json"], {"FLOWSTORE_FLOW_CONFIG_VALUE": '{"config": {"alpha": 3}, "more": 1}'}, 1,
    ),
    "TOML": (["--config", "config", "config.toml"], {}, 6),
}  # fmt: skip


@pytest.mark.parametrize(("options", "environment_", "alpha"), SOURCES.values(), ids=SOURCES)
def test_where_it_comes_from(configured, options, environment_, alpha):
    """A file or a value, from the command line or the environment."""
    script = configured(PRINTING)
    (script.folder / "other.json").write_text('{"alpha": 1}')
    (script.folder / "config.toml").write_text("alpha = 6")
    assert f"config is {{'alpha': {alpha}}}" in script(*options, "run", **environment_).stdout


REFUSED = {
    "no file": (["--config", "config", "none.json"], "Config config: none.json cannot be read: No such file"),
    "no default file": ([], "Config config: config.json cannot be read: No such file or directory. Name another one"),
    "ill-formed": (["--config", "config", "bad.json"], "Config config: bad.json is not valid JSON: Expecting"),
    "ill-formed value": (["--config-value", "config", "{"], "Config config: its value is not valid JSON"),
    "ill-formed TOML": (["--config", "config", "bad.toml"], "Config config: bad.toml is not valid TOML"),
    "a list": (["--config-value", "config", "[1]"], "its value holds a list, but a config is a dict"),
    "unknown": (["--config", "confog", "x"], "F has no config 'confog'. Did you mean 'config'? It has: config."),
    "twice": (["--config", "config", "x", "--config-value", "config", "{}"], "give either a file, with --config, or"),
    "a missing key": (["--config-value", "config", "{}"], "step start: config.times has no value: The config has"),
    "a wrong value": (["--config-value", "config", '{"times": -1}'], "step start: @retry: times must be"),
    "an unknown option": (
        ["--config-value", "config", '{"times": 1, "more": {"tims": 1}}'], "cannot have the options tims",
    ),
}  # fmt: skip


TIMES = "@retry(times=config.times)"


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(flow, options, message):
    """A value that is missing, ill-formed or does not fit is one message, exit code 2, and no run in the store."""
    refused(flow, options, message, "run")


def refused(flow, options, message, *command):
    """Check that a command refuses values."""
    decorator = "@retry(**config.more)" if "tims" in str(options) else TIMES
    members = "config = Config('config', default='config.json')"
    script = flow(flow_source(LINEAR, members=members, start=decorator))
    (script.folder / "bad.json").write_text("{bad")
    (script.folder / "bad.toml").write_text("a = ")
    stderr = script(*options, *command, expect=2).stderr
    assert message in stderr.replace("\n", " ")
    assert stderr.count("Error: ") == 1
    assert not script.db.exists()


@pytest.mark.parametrize("command", [[], ["check"], ["show"], ["output-dot"], ["deploy", "create"]], ids=" ".join)
def test_commands_that_need_the_values(flow, command):
    """Each command that looks at the flow refuses them."""
    refused(flow, *REFUSED["a missing key"], *command)


DEFINITIONS = {
    "a default value": ("Config('c', default_value={'a': 1})", {"a": 1}),
    "a text to parse": ("Config('c', default_value='{\"a\": 2}')", {"a": 2}),
    "a function": ("Config('c', default_value=lambda context: {'flow': context.flow_name})", {"flow": "F"}),
    "a function for the file": ("Config('c', default=lambda: 'config.json')", VALUES),
    "none": ("Config('c')", None),
    "a parser": ("Config('c', default_value='a b', parser=str.split, plain=True)", ["a", "b"]),
    "a named parser": ("Config('c', default_value='a = 1', parser='tomllib.loads')", {"a": 1}),
    "a parser of the module": ("Config('c', default_value='x', parser='parse')", {"parsed": "x"}),
    "a parser gets text": ("Config('c', default_value={'a': 1}, parser='parse')", {"parsed": '{"a": 1}'}),
    "plain": ("Config('c', default='config.json', plain=True)", json.dumps(VALUES)),
}


@pytest.mark.parametrize(("definition", "value"), DEFINITIONS.values(), ids=DEFINITIONS)
def test_definitions(configured, definition, value):
    """Defaults, functions and parsers."""
    script = configured(
        flow_source(LINEAR, head="def parse(text): return {'parsed': text}", members=f"c = {definition}")
    )
    script("run")
    assert script.client().data.c == value


WRONG_DEFINITIONS = {
    "required": ("Config('c', required=True)", "Config c: it is required. Give a file, --config c FILE, or a value"),
    "a raising function": (
        "Config('c', default_value=lambda: 1 / 0)",
        "its default raised ZeroDivisionError: division",
    ),
    "a raising parser": (
        "Config('c', default_value='x', parser=int)",
        "was refused by its parser (ValueError): invalid",
    ),
    "no parser": (
        "Config('c', default_value='x', parser='yamml.load')",
        "The parser 'yamml.load' of a config cannot be",
    ),
    "no dict": ("Config('c', default_value='1')", "its value holds the int 1, but a config is a dict"),
}


@pytest.mark.parametrize(("definition", "message"), WRONG_DEFINITIONS.values(), ids=WRONG_DEFINITIONS)
def test_wrong_definitions(flow, definition, message):
    """They are found before anything runs."""
    script = flow(flow_source(LINEAR, members=f"c = {definition}"))
    assert message in script("run", expect=2).stderr.replace("\n", " ")
    assert "Usage: python flow.py run" in script("run", "--help").stdout


def test_a_resumed_run_keeps_its_own(configured):
    """It has the values of its origin, in decorators too, whatever has become of the file; new configs are read."""
    members = "config = Config('config', default='config.json')"
    source = flow_source(LINEAR, members=members, end=f"{TIMES}\nassert Path('repaired').exists()")
    script = configured(source)
    script("run", expect=1)
    (script.folder / "config.json").write_text('{"times": 7}')
    (script.folder / "repaired").touch()
    assert "keeps its origin's configs" in script("--config-value", "config", "{}", "resume", expect=2).stderr
    script.rewrite(source.replace(members, f"{members}; other = Config('other', default='config.json')"))
    script("resume", "end")
    run = script.client(2)
    assert (run.data.config, run.data.other) == (VALUES, {"times": 7})
    (script.folder / "config.json").unlink()
    script("resume", "--origin-run-id", "2", "start", "--start-method", "spawn")
    assert script.client(3).data.config == VALUES


def test_one_run_is_resumed(configured):
    """The latest run is looked for once: one that begins meanwhile does not mix its parameters with these configs."""
    head = """
        def later(value):
            if os.environ.pop("LATER", None):
                os.system(f"{sys.executable} flow.py --config-value config '{{}}' run --alpha 2")
            return value
    """
    members = "config = Config('config', default='config.json')\nalpha = Parameter('alpha', default=1)"
    end = "@environment(vars={'X': config_expr('later(config.get(\"project\", \"none\"))')})"
    script = configured(flow_source(LINEAR, head=head, members=members, end=end))
    script("run")
    assert "running F/3 for tester" in script("resume", "end", LATER="1").stderr
    run = script.client(3)
    assert (run.origin_run_id, run.data.alpha, run.data.config) == ("1", 1, VALUES)


def test_nothing_to_resume(configured):
    """Without a store, or without a run, `resume` says so as ever."""
    script = configured(PRINTING)
    assert "no run of F to resume" in script("resume", expect=1).stderr


def test_a_deployment_keeps_its_own(configured):
    """The deployed values run, whatever the file, the environment or the command line say later."""
    script = configured()
    script("--config-value", "config", json.dumps({**VALUES, "alpha": 8}), "deploy", "create")
    (script.folder / "config.json").write_text(json.dumps({**VALUES, "alpha": 9}))
    shown = script("deploy", "show").stdout
    assert "config config" in shown
    assert "'alpha': 8" in shown
    script("deploy", "trigger", FLOWSTORE_FLOW_CONFIG_VALUE=json.dumps({"config": {**VALUES, "alpha": 10}}))
    script("deploy", "trigger", "--alpha", "1")
    flowstore.namespace(None)
    # the deployment is found by its project, which depends on the config
    script("deploy", "list-runs", FLOWSTORE_FLOW_CONFIG="[]", expect=2)
    data = [script.client(run_id)["start"].task.data for run_id in (1, 2)]
    assert [item.seen[1] for item in data] == ["16", "16"]
    assert [item.alpha for item in data] == [8, 1]
    assert script.client(1).data.config == {**VALUES, "alpha": 8}
    assert script.client(1).parameters.keys() == {"alpha", "beta", "gamma"}
    assert "not a parameter of what is deployed" in script("deploy", "trigger", "--config", "x", expect=2).stderr


def test_a_changed_deployment_is_refused(configured):
    """The values of configs are part of what is signed."""
    script = configured(PRINTING)
    script("deploy", "create")
    with contextlib.closing(sqlite3.connect(script.db)) as connection, connection:
        other = "(select id from blobs where codec <> 'json' limit 1)"
        connection.execute(f"update deployment_parameters set blob_id = {other} where option = 'config config'")
    assert "was changed after you made it" in script("deploy", "trigger", expect=1).stderr


def test_commands_that_only_look(configured):
    """They need no config."""
    script = configured(PRINTING)
    script("run")
    (script.folder / "config.json").unlink()
    assert "successful" in script("list", "runs").stdout
    assert "config is" in script("logs", "1/start").stdout
    assert "Usage" in script("run", "--help").stdout
    assert script("--config", "config", "x", "tag", "list", "--run-id", "1").code == 0


def test_a_base_class_and_two_configs(flow):
    """Configs of a base class, and decorators there, follow the values too."""
    source = """
        from flowstore import *

        class Base(FlowSpec):
            base = Config("base", default_value={"times": 1})
            @retry(times=base.times)
            @step
            def start(self):
                self.count = current.retry_count
                if not self.count: raise ValueError
                self.next(self.end)

        class F(Base):
            own = Config("own-name", default_value={"seconds": 50})
            @timeout(seconds=own.seconds)
            @step
            def end(self):
                self.limit = self.own.seconds

        if __name__ == "__main__":
            F()
    """
    script = flow(textwrap.dedent(source))
    script("--config-value", "own-name", '{"seconds": 49}', "run", "--start-method", "spawn")
    data = script.client().data
    assert (data.count, data.limit, data.base, data.own) == (1, 49, {"times": 1}, {"seconds": 49})


def test_a_config_cannot_be_assigned(configured):
    """Neither in a step nor below its name, and a join needs not merge it."""
    script = configured(plain("1\nself.config = 2"))
    assert "config is a config; configs cannot be assigned" in script("run", expect=1).stdout
    script.rewrite(plain("1\nself.config.alpha = 2"))
    assert "A config cannot be changed. Change a copy of it: config.to_dict()" in script("run", expect=1).stdout


def test_a_part_as_an_artifact(configured):
    """A part of a config can be stored, and comes back as it was."""
    script = configured(plain("self.config.variables"))
    script("run")
    value = script.client().data.x
    assert (value, type(value)) == ({"FOO": "foo"}, ConfigValue)


def test_values_that_are_no_json(flow):
    """The result of a parser reaches tasks in other interpreters as it is."""
    head = "import datetime\nclass Own:\n    x = 3\n"
    members = "c = Config('c', default_value='', parser=lambda _: Own(), plain=True)\n"
    members += "d = Config('d', default_value='d = 2020-01-01', parser='tomllib.loads')"
    script = flow(flow_source(LINEAR, head=head, members=members, start="self.x = [self.c.x, self.d.d]"))
    script("run", "--start-method", "spawn")
    assert [script.client().data.x[0], str(script.client().data.x[1])] == [3, "2020-01-01"]


def test_the_value():
    """It is a dict that is only read."""
    value = ConfigValue({"a": {"b": [{"c": 1}]}, "items": 2})
    assert value.a.b[0].c == 1
    assert (value["items"], value == {"a": {"b": [{"c": 1}]}, "items": 2}) == (2, True)
    assert type(value.to_dict()["a"]["b"][0]) is dict
    assert copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == value
    assert type(copy.deepcopy(value).a) is ConfigValue
    assert "a" in dir(value)
    assert json.loads(json.dumps(value)) == value
    for change in (lambda: value.pop("a"), lambda: value.update(a=1), lambda: setattr(value, "a", 1), value.clear):
        with pytest.raises(TypeError, match="cannot be changed"):
            change()
    with pytest.raises(AttributeError, match="no key 'b'; it has: a, items"):
        _ = value.b


def test_used_too_early():
    """Using a value that is not known yet is an error that says what to write, rather than silently wrong."""
    config = Config("config")
    for use in (bool, str, list, lambda item: f"{item}", lambda item: item == 1, lambda item: item + 1):
        with pytest.raises(GraphError, match=r"config\.a is not known yet where it is used"):
            use(config.a)
        with pytest.raises(GraphError, match="config is not known yet"):
            use(config)
    assert repr(config.a["b"].c) == "config.a['b'].c"
    assert repr(config_expr("x + 1").y) == "x + 1.y"
    assert repr(config) == "Config('config')"
    with pytest.raises(GraphError, match="config_expr takes a text"):
        config_expr(config)


def test_the_definition():
    """A name is an identifier; a file and a value are alternatives."""
    with pytest.raises(ParameterError, match="name is an identifier, not 'a b'"):
        Config("a b")
    with pytest.raises(ParameterError, match="Config a: give either default, a file, or default_value"):
        Config("a", default="x", default_value={})
    with pytest.raises(GraphError, match="two @environment"):
        environment(vars=Config("a").x)(environment(vars={})(lambda self: None))
