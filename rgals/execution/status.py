"""What is known about a Ray cluster before work is sent to it."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Authentication", "ClusterStatus", "NodeStatus"]

Authentication: TypeAlias = Literal["token", "off", "refused", "unknown"]
"""``token``: it asks for a token and took ours; ``off``: it asks for none; ``refused``: it did not take ours."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One machine of a cluster.

    Parameters
    ----------
    name : str
        Its host name or address.
    address : str
        The address under which the other nodes reach it.
    n_cpus : int
        CPUs that it offers to Ray.
    memory_bytes : int
        Memory that it offers to the heaps of workers.
    object_store_bytes : int
        Size of its object store.
    """

    name: str
    address: str
    n_cpus: int
    memory_bytes: int
    object_store_bytes: int


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """Whether a cluster answers, and what it consists of.

    Parameters
    ----------
    is_reachable : bool
        Whether it answered and let us in.
    authentication : str
        See `Authentication`.
    ray_version : str or None
        Its version of Ray; None where it did not say.
    python_version : str or None
        Its version of Python; None where it did not say.
    nodes : tuple of NodeStatus
        Its live nodes, in the order of their names.
    message : str
        One sentence for people: what was found, or why it was not reached and what to do.
    """

    is_reachable: bool
    authentication: Authentication
    ray_version: str | None
    python_version: str | None
    nodes: tuple[NodeStatus, ...]
    message: str

    @property
    def n_cpus(self) -> int:
        """CPUs of all nodes."""
        return sum(node.n_cpus for node in self.nodes)

    @property
    def object_store_bytes(self) -> int:
        """Sizes of the object stores of all nodes, added."""
        return sum(node.object_store_bytes for node in self.nodes)
