"""Objects that a task finds in `current`. Stored pickles name this module, so it is part of the file format."""

from __future__ import annotations

from flowstore import later


@later.frozen
class Gang:
    """`current.parallel`: a task's place in its gang.

    Attributes:
        main_ip: the address of the first node.
        num_nodes: how many there are.
        node_index: which this is, from 0.
        control_task_id: the id of node 0's task.
    """

    main_ip: str
    num_nodes: int
    node_index: int
    control_task_id: str
