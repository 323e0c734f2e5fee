"""Flows in AWS, by the real commands and boto3, against an emulator in a process and an environment of its own."""

from __future__ import annotations

from support.stage import aws, server, stage

__all__ = ["aws", "server", "stage"]


def pytest_collection_modifyitems(items):
    """Mark all tests here, so that they run where they are asked for only."""
    for item in items:
        if "tests/aws/" in item.nodeid:
            item.add_marker("aws")
