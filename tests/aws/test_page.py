"""The page on AWS: its examples do what it says, in an empty account."""

from __future__ import annotations

from support.pages import DOCS, Reader


def test_examples(aws, tmp_path, monkeypatch):
    """From roles to the first run."""
    monkeypatch.delenv("FLOWSTORE_SFN_ROLE")
    Reader(tmp_path).read(DOCS / "aws.md")
    [schedule] = aws.client("scheduler").list_schedules()["Schedules"]
    found = aws.client("scheduler").get_schedule(Name=schedule["Name"])
    assert found["ScheduleExpressionTimezone"] == "Europe/Berlin"
    assert found["Target"]["RoleArn"].endswith("flowstore-scheduler")
