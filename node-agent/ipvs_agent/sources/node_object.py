"""The IPVSNode as this agent reads it: what the node is told, and what it has reported. Pure."""

from typing import NamedTuple

import msgspec

from ipvs_api.meta import ObjectMeta
from ipvs_api.node import IPVSNodeSpec, IPVSNodeStatus


class Node(NamedTuple):
    """An IPVSNode. ``spec`` None: it cannot be read, ``problem`` says why."""

    metadata: ObjectMeta
    spec: IPVSNodeSpec | None
    status: IPVSNodeStatus
    problem: str = ""


class _Meta(msgspec.Struct):
    metadata: ObjectMeta


class _Spec(msgspec.Struct):
    spec: IPVSNodeSpec = IPVSNodeSpec()


class _Status(msgspec.Struct):
    status: IPVSNodeStatus = IPVSNodeStatus()


def decode_node(item: bytes | msgspec.Raw) -> Node:
    """An IPVSNode from JSON, each part as far as it can be read."""
    metadata = msgspec.json.decode(item, type=_Meta).metadata
    try:
        status = msgspec.json.decode(item, type=_Status).status
    except msgspec.ValidationError:
        status = IPVSNodeStatus()  # whoever wrote it, it is not what this agent says
    try:
        return Node(metadata, msgspec.json.decode(item, type=_Spec).spec, status)
    except msgspec.ValidationError as error:
        return Node(metadata, None, status, f"IPVSNode {metadata.name}: {error}; upgrade the agent on this node")
