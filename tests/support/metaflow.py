"""Folders of Metaflow for tests: those that its versions wrote, and what can be wrong with one."""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from pathlib import Path

FOLDERS = Path(__file__).parents[1] / "transfer" / "metaflow" / "folders.tar.xz"
OLD_FLOW = FOLDERS.with_name("old_flow.py")
VERSIONS = ("2.0", "2.2", "2.6", "2.12", "2.19")
NEWEST = VERSIONS[-1]


def unpack(root):
    """Unpack the folders that Metaflow wrote; return them by its version."""
    with tarfile.open(FOLDERS) as archive:
        archive.extractall(root, filter="data")
    return {path.name: path for path in root.iterdir()}


class History:
    """A folder that a test changes.

    Attributes:
        root: the folder.
        flow: the folder of its flow.
        run: the folder of its first run.
    """

    def __init__(self, root):
        self.root = root
        self.flow = root / "OldFlow"
        self.run = min(path for path in self.flow.iterdir() if path.name.isdigit())

    def task(self, step):
        """The folder of a step's only task."""
        [task] = [path for path in (self.run / step).iterdir() if path.name != "_meta"]
        return task

    def record(self, step):
        """The record of what the last attempt of a step's task has set, and its path."""
        path = max(self.task(step).glob("*.data.json"))
        return path, json.loads(path.read_text())

    def blob(self, step, name):
        """The path of an artifact's bytes."""
        sha = self.record(step)[1]["objects"][name]
        return self.flow / "data" / sha[:2] / sha

    def put(self, data, *, raw=False):
        """Store bytes as Metaflow does; return their address."""
        sha = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        path = self.flow / "data" / sha[:2] / sha
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if raw else gzip.compress(data))
        path.with_name(f"{sha}_meta").write_text(json.dumps({"cas_raw": raw, "cas_version": 1}))
        return sha

    def set(self, step, name, data, size=None):
        """Give the last attempt of a step's task an artifact, by its pickle."""
        path, record = self.record(step)
        sha = self.put(data)
        record["objects"][name] = sha
        record["info"][name] = {"size": len(data) if size is None else size, "type": "<class 'object'>"}
        path.write_text(json.dumps(record))
        return sha

    def add_fact(self, step, name, value, kind=None):
        """Add a fact to a step's task."""
        path = self.task(step) / "_meta"
        [one, *_] = sorted(path.glob("sysmeta_attempt_[0-9]*.json"), reverse=True)
        fact = json.loads(one.read_text()) | {"field_name": name, "type": kind or name, "value": value}
        (path / f"sysmeta_{name}_{fact['ts_epoch']}.json").write_text(json.dumps(fact))
