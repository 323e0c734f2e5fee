"""Nodes of a Slurm cluster: what they offer, and how they reach this machine."""

from __future__ import annotations

import contextlib
import ipaddress
import math
import re
import socket
from collections.abc import Mapping, Sequence

from flowstore import later
from flowstore.errors import FlowstoreError
from flowstore.run.remote.slurm_commands import call, complaint

UNUSABLE = ("down", "drain", "drng", "fail", "inval", "unk", "error", "blocked", "futr", "perfctrs")


@later.frozen
class Node:
    """A node of a partition.

    Attributes:
        name, address: its name, and where it is reached.
        cpus, memory, gpus: what it has; memory in megabytes.
    """

    name: str
    address: str
    cpus: int
    memory: int
    gpus: int

    def room(self, amounts: Mapping[str, float]) -> int:
        """Return how many attempts with such resources could run there at a time if nothing else ran."""
        has = {"cpu": self.cpus, "memory": self.memory, "gpu": self.gpus}
        wanted = {"cpu": 1.0, **amounts}
        return min(int(has[name] // math.ceil(amount)) for name, amount in wanted.items())

    def __str__(self) -> str:
        gpus = f", gpu={self.gpus}" if self.gpus else ""
        return f"cpu={self.cpus}, memory={self.memory}{gpus}"


def address_for(listening_at: str, nodes: Sequence[Node]) -> str:
    """Return the address at which nodes reach a listener: one at all addresses (0.0.0.0, ::) has none of its own."""
    if not ipaddress.ip_address(listening_at.partition("%")[0]).is_unspecified:
        return listening_at
    towards = address_towards(nodes)
    return towards if (":" in towards) == (":" in listening_at) else socket.gethostname()


def nodes_of(partition: str | None) -> list[Node]:
    """Return the nodes of a partition, by default of the default one, that can run jobs.

    Raises:
        FlowstoreError: there is no such partition, none of its nodes is up, or the controller does not answer.
    """
    result = call("sinfo", "--noheader", "--Node", "--format=%P|%N|%o|%c|%m|%G|%t")
    if result.returncode:
        raise FlowstoreError(f"Slurm does not say which nodes there are: {complaint(result)}.")
    rows = [line.strip().split("|") for line in result.stdout.splitlines() if line.count("|") == 6]
    partitions = sorted({row[0].rstrip("*") for row in rows})
    defaults = [row[0].rstrip("*") for row in rows if row[0].endswith("*")]
    wanted = partition or next(iter(defaults), None)
    if wanted is None:
        raise FlowstoreError(f"Slurm has no default partition. Choose one: {_choice(partitions)}")
    names = wanted.split(",")
    for name in names:
        if name not in partitions:
            raise FlowstoreError(f"Slurm has no partition {name!r}. Choose another: {_choice(partitions)}")
    nodes = {row[1]: _node(row) for row in rows if row[0].rstrip("*") in names and not row[6].startswith(UNUSABLE)}
    if not nodes:
        raise FlowstoreError(f"Slurm's partition {wanted} has no node that is up. sinfo --list-reasons tells why.")
    return list(nodes.values())


def _choice(partitions: Sequence[str]) -> str:
    return f"--executor-option partition=NAME. There are: {', '.join(partitions)}."


def _node(row: Sequence[str]) -> Node:
    _, name, address, cpus, memory, gres, _ = row
    counts = re.findall(r"(?:^|,)gpu(?::[^,:(]+)?:(\d+)", re.sub(r"\([^)]*\)", "", gres))
    return Node(name, address, int(cpus.rstrip("+")), int(memory.rstrip("+")), sum(map(int, counts)))


def address_towards(nodes: Sequence[Node]) -> str:
    """Return the address of this machine from which the nodes are reached, and which they therefore reach."""
    addresses: list[str] = []
    for node in nodes[:3]:
        with contextlib.suppress(OSError):
            family, kind, protocol, _, address = socket.getaddrinfo(node.address, 9, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(address)  # which sends nothing
                addresses.append(str(probe.getsockname()[0]))
    away = [address for address in addresses if not ipaddress.ip_address(address).is_loopback]
    return [*away, *addresses, socket.gethostname()][0]  # one of the nodes may be this machine
