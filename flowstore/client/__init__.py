"""The Client: results as objects, found by address, namespace and tag.

    Flows() ─ Flow ─ Run ─ Step ─ Task ─ DataArtifact

Each is addressed by a pathspec, `Flow/run/step/task/artifact`, is iterable over what it holds, newest first,
and supports `[id]` and `in`. Creating an object checks at once that it exists and is in the namespace; everything else
is read when it is asked for. Status and tags are read afresh each time; what cannot change is fetched once.

An object belongs to a store and looks through a namespace, and so does all that is reached from it. `open_store`
returns a store with a namespace of its own. `Flow("F")` is short for the active store's `flow("F")`, in whichever
namespace is active.
"""

from flowstore.client.artifact import Artifacts, Data, DataArtifact
from flowstore.client.code import Code
from flowstore.client.facts import Metadata
from flowstore.client.run import Flow, Flows, Run, Step
from flowstore.client.store import Store, open_store
from flowstore.client.task import ExceptionInfo, Task

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

# What is pickled names these modules; what `@catch` stored in version 0.1.0 names `flowstore.client.task`.
_PUBLIC: dict[str, tuple[type, ...]] = {
    "flowstore": (DataArtifact, ExceptionInfo, Flow, Flows, Run, Step, Store, Task),
    "flowstore.client": (Artifacts, Code, Data, Metadata),
}
for _module, _classes in _PUBLIC.items():
    for _class in _classes:
        _class.__module__ = _module
