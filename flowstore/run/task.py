"""The name `flowstore.run.task.Gang`, under which `current.parallel` is pickled: part of the file format."""

from __future__ import annotations

from flowstore.run.attempt import Gang

__all__ = ["Gang"]
