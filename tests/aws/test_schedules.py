"""Schedules in AWS: made, changed and removed together with the flow, and left alone by flowstore's own scheduler."""

from __future__ import annotations

import json

import pytest

from support.aws import REGION, ROLE
from support.flows import LINEAR, flow_source
from support.production import one_message


def daily(cron, zone=None):
    """A flow with a schedule."""
    return flow_source(LINEAR, head=f"@schedule(cron={cron!r}, timezone={zone!r})")


def schedules(stage):
    """Expression, zone, target and role of each schedule, by name."""
    client = stage.aws.client("scheduler")
    found = [client.get_schedule(Name=one["Name"]) for one in client.list_schedules()["Schedules"]]
    return {
        one["Name"]: (
            one["ScheduleExpression"],
            one["ScheduleExpressionTimezone"],
            one["Target"]["Arn"].rpartition(":")[2],
            one["Target"]["RoleArn"].rpartition("/")[2],
        )
        for one in found
    }


def test_a_schedule_follows_the_flow(stage):
    """It is made, changed, and removed with a version that has none, or with the flow."""
    stage = stage(daily("30 6 * * 1-5", "Europe/Berlin"))
    stage.create("--scheduler-role", "arn:aws:iam::123456789012:role/clock")
    assert schedules(stage) == {"F": ("cron(30 6 ? * 2-6 *)", "Europe/Berlin", "F", "clock")}
    assert "cron(30 6 ? * 2-6 *) (Europe/Berlin)" in stage("show").stdout
    stage.script.rewrite(daily("0 7 * * *"))
    stage.create()
    assert schedules(stage) == {"F": ("cron(0 7 * * ? *)", "UTC", "F", "clock")}
    stage.script.rewrite(flow_source(LINEAR))
    stage.create()
    assert schedules(stage) == {}
    stage.script.rewrite(daily("0 7 * * *"))
    stage.create()
    assert "the schedule F" in stage("delete").stdout
    assert schedules(stage) == {}


def test_policies_are_what_the_flow_needs(stage):
    """One role for both services unless the schedule has its own; nothing about schedules without one."""
    stage = stage(flow_source(LINEAR))
    assert "scheduler" not in stage("create", "--show-policies").stdout
    stage.aws.answer("scheduler.GET", 403, "AccessDeniedException")
    stage.create()
    assert "schedule       none" in stage("show").stdout
    stage("delete")
    stage.script.rewrite(daily("0 7 * * *"))
    clock = "arn:aws:iam::123456789012:role/clock"
    one, two = (
        json.loads(stage("create", "--show-policies", *words).stdout) for words in ((), ("--scheduler-role", clock))
    )
    assert (one["scheduler"], services(one["scheduler"])) == (one["state machine"], ["states", "scheduler"])
    assert one["scheduler"]["role"] == ROLE
    assert [services(two[name]) for name in ("state machine", "scheduler")] == [["states"], ["scheduler"]]
    one_message(stage("create", expect=1), "do not allow it")
    stage.aws.answers.clear()
    stage.create()
    assert schedules(stage)["F"][-1] == ROLE.rpartition("/")[2]


def services(role):
    """The services that may take a role on."""
    return [one["Principal"]["Service"].partition(".")[0] for one in role["trust"]["Statement"]]


def test_a_schedule_of_somebody_else_stays(stage):
    """It has the flow's name, and starts something else."""
    stage = stage(flow_source(LINEAR))
    stage.aws.client("scheduler").create_schedule(
        Name="F",
        ScheduleExpression="rate(1 day)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": f"arn:aws:states:{REGION}:123456789012:stateMachine:Other", "RoleArn": ROLE},
        ScheduleExpressionTimezone="UTC",
    )
    stage.create()
    assert "the schedule" not in stage("delete").stdout
    assert [*schedules(stage)] == ["F"]


def test_the_scheduler_here_leaves_it_alone(stage):
    """The scheduler leaves alone what AWS starts, and has it again once it is only deployed here."""
    stage = stage(daily("* * * * *"))
    stage.create()
    assert "started by: AWS" in stage.script("deploy", "create").stdout
    assert "Waiting for a deployment with a schedule" in stage.script.flowstore("scheduler", "--once").stderr
    stage("delete")
    stage.script("deploy", "create")
    assert "Scheduled: F version" in stage.script.flowstore("scheduler", "--once").stderr


def test_events_start_it_here(stage):
    """AWS knows nothing of them: `flowstore scheduler` runs what is deployed, and leaves the schedule to AWS."""
    stage = stage(daily("* * * * *").replace("@schedule", "@trigger(event='updated')\n@schedule"))
    assert "Started on:            event updated, by: flowstore scheduler" in stage("create").stdout
    stage.script.flowstore("event", "updated")
    said = stage.script.flowstore("scheduler", "--once").stderr
    assert "Waiting for a deployment with a schedule, or for events." in said
    assert stage.script.client(1).trigger.event.name == "updated"
    assert stage.executions() == []


@pytest.mark.parametrize("line", ["0 0 13 * FRI", "0 0 * * 1#1,2#1"])
def test_a_schedule_that_aws_cannot_express(stage, line):
    """Nothing is changed anywhere."""
    stage = stage(daily(line))
    one_message(stage("create", expect=1), "a schedule in AWS can have only", "flowstore scheduler")
    assert not stage.script.db.exists()
    assert stage.aws.sent == []
