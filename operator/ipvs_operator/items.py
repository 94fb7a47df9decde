"""What is reconciled: one thing at a time, named by a value."""

from enum import StrEnum
from typing import NamedTuple

from ipvs_api.meta import ObjectKey


class Work(StrEnum):
    """Kinds of things."""

    SERVICE = "VirtualService"
    """A VirtualService with its plans, claims and status."""
    NODE = "IPVSNode"
    """What one node is told as a whole."""
    GROUP = "DirectorGroup"
    """A DirectorGroup's status."""
    BALANCER = "Service"
    """A Service of type LoadBalancer: its VirtualService, and its status."""


class Item(NamedTuple):
    work: Work
    namespace: str
    name: str

    @property
    def key(self) -> ObjectKey:
        """Of the object that is reconciled."""
        return ObjectKey(self.work, self.namespace, self.name)

    def __str__(self) -> str:
        return str(self.key)
