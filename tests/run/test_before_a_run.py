"""What can be known before a run exists is checked before it, and leaves none; `resume` takes the right one over."""

from __future__ import annotations

import os

import pytest

from support.flows import FOREACH, LINEAR, MIDDLE, flow_source

MEND = "assert Path('mended').exists()"
WRONG = {
    "a decorator's name": ["--with", "retyr"],
    "a decorator's option": ["--with", "retry:tmies=3"],
    "a decorator's value": ["--with", "retry:times=x"],
    "half a retry": ["--with", "retry:times=1.5"],
    "no number": ["--with", "timeout:seconds=NaN"],
    "an endless timeout": ["--with", "timeout:seconds=Infinity"],
    "no timeout at all": ["--with", "timeout"],
    "no pair": ["--with", "retry:times"],
    "an environment that is no dict": ["--with", "environment:vars=3"],
    "a variable that can't be": ["--with", 'environment:vars={"a=b": "1"}'],
    "no boolean": ["--with", "catch:print_exception=perhaps"],
    "an empty one": ["--with", ""],
    "a run id file in no folder": ["--run-id-file", "no/such/place"],
    "a run id file that is a folder": ["--run-id-file", "folder"],
    "a run id file below a file": ["--run-id-file", "flow.py/id"],
    "a run id file with a long name": ["--run-id-file", "x" * 300],
    "no workers": ["--max-workers", "0"],
    "no splits": ["--max-num-splits", "0"],
}


def no_run(script):
    """Nothing was run: not even a store was made."""
    return not script.db.exists()


@pytest.mark.parametrize("option", WRONG)
def test_a_wrong_option_leaves_no_run(option, flow):
    """Each is wrong usage, exit code 2, and there is no store afterwards."""
    script = flow(flow_source(LINEAR))
    (script.folder / "folder").mkdir()
    told = script("run", *WRONG[option], expect=2).stderr
    assert "Error: " in told
    assert no_run(script)


@pytest.mark.parametrize("option", [name for name in WRONG if WRONG[name][0] == "--with"])
def test_a_wrong_decorator_is_not_deployed(option, flow):
    """`deploy create` refuses the same, and makes no store."""
    script = flow(flow_source(LINEAR))
    script("deploy", "create", *WRONG[option], expect=2)
    assert no_run(script)


@pytest.mark.parametrize("option", WRONG)
def test_a_wrong_option_of_resume_leaves_the_origin_as_it_was(option, flow):
    """After a typo a plain resume still takes over what had finished."""
    script = flow(flow_source(MIDDLE, middle=MEND))
    (script.folder / "folder").mkdir()
    script("run", expect=1)
    script("resume", *WRONG[option], expect=2)
    assert script.sql("select count(*) from runs") == [1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_id_file_that_must_not_be_written(flow):
    """A folder or a file without permission is found before the run."""
    script = flow(flow_source(LINEAR))
    (script.folder / "id").touch(0o400)
    script("run", "--run-id-file", "id", expect=2)
    assert no_run(script)


def test_a_branch_without_a_project_leaves_no_store(flow):
    """So is a branch that the flow can't have."""
    script = flow(flow_source(LINEAR))
    assert "@project" in script("--branch", "b", "run", expect=1).stderr
    assert no_run(script)


DEFAULTS = {
    "a text for an int": "type=int, default='abc'",
    "half an int": "type=int, default=1.5",
    "a text for a float": "type=float, default='much'",
    "a text for a bool": "type=bool, default='perhaps'",
    "an int for a text": "type=str, default=5",
    "a list that is no list": "type=str, separator=',', default=5",
    "no JSON": "type=JSONType, default='{oops'",
    "a function that raises": "type=int, default=lambda: 1 / 0",
    "a function's wrong type": "type=int, default=lambda: 'abc'",
    "a function with a context": "type=int, default=lambda context: context.flow_name",
}


@pytest.mark.parametrize("default", DEFAULTS)
def test_a_wrong_default_is_found_by_check_run_and_deploy(default, flow):
    """A default that does not fit is wrong usage before anything runs, and check finds it."""
    script = flow(flow_source(LINEAR, members=f"x = Parameter('x', {DEFAULTS[default]})"))
    for command in (["check"], ["run"], ["deploy", "create"]):
        assert "Parameter x" in script(*command, expect=2).stderr
    assert no_run(script)


def test_a_wrong_default_is_found_though_a_value_is_given(flow):
    """A plain default is wrong whether this run needs it or not; a function is only called where it is needed."""
    fixed = flow(flow_source(LINEAR, members="x = Parameter('x', type=int, default='abc')"))
    assert "Parameter x" in fixed("run", "--x", 3, expect=2).stderr
    assert no_run(fixed)
    called = flow(flow_source(LINEAR, members="x = Parameter('x', type=int, default=lambda: 1 / 0)"))
    called("run", "--x", 3)


def test_a_file_that_is_missing_is_found(flow):
    """The default of an IncludeFile is read before the run, and by check; a file that is given spares that."""
    script = flow(flow_source(LINEAR, members="x = IncludeFile('x', default='nowhere')"))
    assert "nowhere" in script("check", expect=2).stderr
    assert "nowhere" in script("run", expect=2).stderr
    assert no_run(script)
    script("run", "--x", "flow.py")


@pytest.mark.parametrize("member", ["type=int", "type=float", "type=bool", "type=bool, is_flag=True", "type=JSONType"])
def test_an_ill_typed_variable_is_wrong_usage(member, flow):
    """A value from $FLOWSTORE_RUN_<NAME> is checked like one from the command line."""
    script = flow(flow_source(LINEAR, members=f"x_y = Parameter('x_y', {member})"))
    assert "Error: " in script("run", expect=2, FLOWSTORE_RUN_X_Y="per,haps").stderr
    assert no_run(script)


SCHEDULES = ["cron='every day'", "cron='0 0 31 2 *'", "timezone='Mars/Olympus'", "daily=False", "cron='61 * * * *'"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_wrong_schedule_is_found_by_check_run_and_deploy(schedule, flow):
    """A cron line or a time zone that means nothing is told before a run exists."""
    script = flow(flow_source(LINEAR).replace("class F(", f"@schedule({schedule})\nclass F("))
    for command in (["check"], ["run"], ["deploy", "create"]):
        assert "@schedule" in script(*command, expect=2).stderr
    assert no_run(script)


def test_a_deployments_parameters_are_checked(flow):
    """`deploy trigger` with an ill-typed value is wrong usage, and no run."""
    script = flow(flow_source(LINEAR, members="x = Parameter('x', default=1)"))
    script("deploy", "create")
    script("deploy", "trigger", "--x", "abc", expect=2)
    script("deploy", "trigger", expect=2, FLOWSTORE_RUN_X="abc")
    assert script.sql("select count(*) from runs") == [0]


def test_options_that_are_right_still_are(flow):
    """What is checked is not changed: an existing run id file is overwritten, and decorators hold."""
    script = flow(flow_source(LINEAR, start="if current.retry_count < 2: raise ValueError"))
    (script.folder / "id").write_text("before")
    script("run", "--run-id-file", "id", "--with", "retry:times=2", "--tag", "good")
    assert (script.folder / "id").read_text() == "1"
    script("run", "--run-id-file", "/dev/null", "--with", "retry")


# --- the parameters of a resumed run


def resumed(flow, before, after, *options, expect=0, run=(), **env):
    """A run with one parameter that failed, resumed after the parameter was changed; the script and what was told."""
    script = flow(flow_source(LINEAR, members=before, end=MEND))
    (script.folder / "mended").unlink(missing_ok=True)
    script("run", *run, expect=1)
    (script.folder / "mended").touch()
    script.rewrite(flow_source(LINEAR, members=after, end=f"{MEND}\nself.seen = getattr(self, 'x', 'nothing')"))
    return script, script("resume", *options, expect=expect, **env).stderr


@pytest.mark.parametrize("member", ["Parameter('x', required=True)", "IncludeFile('x', required=True)"])
def test_a_new_required_parameter_is_told_before_a_resume(member, flow):
    """Resume takes no parameters, so that one without a default ends it with what to do, and without a run."""
    script, told = resumed(flow, "", f"x = {member}", expect=2)
    assert "Parameter x is required" in told
    assert "$FLOWSTORE_RUN_X" in told
    assert script.sql("select count(*) from runs") == [1]


def test_a_new_parameter_gets_its_default_or_its_variable(flow):
    """The environment gives a new parameter its value, checked; else the default does."""
    member = "x = Parameter('x', type=int, required=True)"
    script, _ = resumed(flow, "", member, FLOWSTORE_RUN_X="7")
    assert script.client(2).data.seen == 7
    script, told = resumed(flow, "", member, FLOWSTORE_RUN_X="abc", expect=2)
    assert "Parameter x: 'abc' is not an int" in told
    script, _ = resumed(flow, "", "x = Parameter('x', type=int, default=lambda: 3)")
    assert script.client(max(script.sql("select id from runs"))).data.seen == 3


def test_a_parameter_that_became_required_is_told(flow):
    """A value that was left out is none."""
    script, told = resumed(flow, "x = Parameter('x')", "x = Parameter('x', required=True)", expect=2)
    assert "Parameter x" in told
    assert script.sql("select count(*) from runs") == [1]


CONVERTED = {  # the parameter before, its value, the parameter now, and the value then
    "int to float": ("type=int", 3, "type=float", 3.0),
    "float to int": ("type=float", 3.0, "type=int", 3),
    "int to text": ("type=int", 3, "type=str", "3"),
    "text to int": ("type=str", "12", "type=int", 12),
    "text to float": ("type=str", "0.5", "type=float", 0.5),
    "text to bool": ("type=str", "yes", "type=bool", True),
    "text to list": ("type=str", "a,b", "separator=','", ["a", "b"]),
    "text to JSON": ("type=str", '{"a": 1}', "type=JSONType", {"a": 1}),
    "JSON to int": ("type=JSONType", "3", "type=int", 3),
    "int to JSON": ("type=int", 3, "type=JSONType", 3),
    "JSON text to itself": ("type=JSONType", '"abc"', "type=JSONType, help='new'", "abc"),
    "JSON null to itself": ("type=JSONType", "null", "type=JSONType, required=True", None),
}


@pytest.mark.parametrize("change", CONVERTED)
def test_a_value_follows_its_parameters_type(change, flow):
    """A value that says the same in the new type is converted, and a line tells so."""
    before, given, after, value = CONVERTED[change]
    script, told = resumed(flow, f"x = Parameter('x', {before})", f"x = Parameter('x', {after})", run=["--x", given])
    seen = script.client(2).data.seen
    assert (seen, type(seen)) == (value, type(value))
    assert ("another type now" in told) == (type(value) is not type(given) and "JSON" not in change.split()[0])


REFUSED = {
    "text to int": ("type=str", "abc", "type=int"),
    "half to int": ("type=float", 1.5, "type=int"),
    "a large int to float": ("type=int", 2**60 + 1, "type=float"),
    "list to int": ("type=JSONType", "[1]", "type=int"),
    "bool to int": ("type=bool", "true", "type=int"),
    "bool to text": ("type=bool", "true", "type=str"),
    "dict to text": ("type=JSONType", '{"a": 1}', "type=str"),
    "two to bool": ("type=int", 2, "type=bool"),
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_value_that_does_not_fit_ends_a_resume_before_its_run(change, flow):
    """What can't be converted is wrong usage, naming parameter, type and value."""
    before, given, after = REFUSED[change]
    script, told = resumed(
        flow, f"x = Parameter('x', {before})", f"x = Parameter('x', {after})", run=["--x", given], expect=2
    )
    assert "Parameter x is " in told
    assert script.sql("select count(*) from runs") == [1]


def test_a_file_follows_its_parameters_form(flow):
    """Text becomes bytes and bytes text, as the encoding says."""
    text, raw = "x = IncludeFile('x', default='flow.py')", "x = IncludeFile('x', default='flow.py', is_text=False)"
    script, _ = resumed(flow, text, raw)
    assert script.client(2).data.seen.startswith(b"import os")


def test_a_removed_parameter_is_told_and_dropped(flow):
    """A resumed run has only the parameters that the flow has."""
    script, told = resumed(
        flow, "x = Parameter('x', default=1)\ny = Parameter('y', default=2)", "y = Parameter('y', default=0)"
    )
    assert "Parameter x of run 1 is no longer in the flow: dropped." in told
    assert script.client(2).parameters == {"y": 2}
    assert script.client(2).data.seen == "nothing"


def test_constants_are_those_of_the_file_as_it_is(flow):
    """A constant is part of the code, so that a resumed run has the new one."""
    script, _ = resumed(flow, "x = 1", "x = 2")
    assert script.client(2).data.seen == 2


# --- a resume that has nothing to take over


def test_a_resume_with_nothing_to_take_over_names_the_run_that_has(flow):
    """Everything runs, and one line says which of my runs would have spared that, and the command."""
    script = flow(flow_source(MIDDLE, start="assert not Path('broken').exists()", middle=MEND))
    script("run", expect=1)
    (script.folder / "broken").touch()
    script("run", expect=1)
    (script.folder / "broken").unlink()
    (script.folder / "mended").touch()
    told = script("resume").stderr
    assert "Run F/2 has nothing to take over, so everything runs." in told
    assert "F/1; to resume that one instead: python flow.py resume --origin-run-id 1" in told
    assert script.counts(3, "origin_pathspec is null") == {"start": 1, "middle": 1, "end": 1}
    assert "nothing to take over" not in script("resume", "--origin-run-id", 1).stderr


def test_a_resume_with_nothing_anywhere_says_so(flow):
    """Where no run has anything, none is named; with the origin named neither."""
    script = flow(flow_source(MIDDLE, start=MEND))
    script("run", expect=1)
    for options in ([], ["--origin-run-id", 1]):
        told = script("resume", *options, expect=1).stderr
        assert "F/1 has nothing to take over, so everything runs.\n" in told or "F/2 has" in told
        assert "latest run that has" not in told


def test_others_runs_are_not_named(flow):
    """The hint looks among the caller's own runs, as the default does."""
    script = flow(flow_source(MIDDLE, start="assert not Path('broken').exists()", middle=MEND))
    script("run", expect=1, FLOWSTORE_USER="anne")
    (script.folder / "broken").touch()
    script("run", expect=1)
    assert "latest run that has" not in script("resume", expect=1).stderr


def test_resuming_from_start_is_no_surprise(flow):
    """Who asks for everything is told nothing."""
    script = flow(flow_source(FOREACH, start="self.xs = [1]"))
    script("run")
    assert "nothing to take over" not in script("resume", "start").stderr
