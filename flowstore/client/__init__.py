"""The Client: results as objects, found by namespace and tag.

    Flows() ─ Flow ─ Run ─ Step ─ Task ─ DataArtifact

Each is addressed by a pathspec, `Flow/run/step/task/artifact`, is iterable over what it holds, newest first,
and supports `[id]` and `in`. Making an object checks at once that it exists and is in the active namespace;
everything else is read when it is asked for. Status and tags are read afresh each time.

An object belongs to the store that was active when it was made, so that objects of two stores can be used
side by side.
"""

from flowstore.client.artifact import Artifacts, Data, DataArtifact
from flowstore.client.code import Code
from flowstore.client.run import Flow, Flows, Run, Step
from flowstore.client.store import Store, open_store
from flowstore.client.task import ExceptionInfo, Metadata, Task

__all__ = [
    "Artifacts",
    "Code",
    "Data",
    "DataArtifact",
    "ExceptionInfo",
    "Flow",
    "Flows",
    "Metadata",
    "Run",
    "Step",
    "Store",
    "Task",
    "open_store",
]

_PUBLIC: dict[str, tuple[type, ...]] = {  # pickles name these modules, which stay, rather than where a class is written
    "flowstore": (DataArtifact, Flow, Flows, Run, Step, Store, Task),
    "flowstore.client": (Artifacts, Code, Data, Metadata),
}
for _module, _classes in _PUBLIC.items():
    for _class in _classes:
        _class.__module__ = _module
