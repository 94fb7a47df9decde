"""Carries out what a reconciliation asks for: one request for one ``Write``. May be called from any thread."""

from collections.abc import Callable
from typing import Any

import msgspec

from ipvs_api.directorgroup import DirectorGroup
from ipvs_api.ipaddress import IPVSAddress
from ipvs_api.meta import ObjectMeta, OwnerReference
from ipvs_api.node import IPVSNode
from ipvs_api.plan import VirtualServicePlan
from ipvs_api.virtualservice import VirtualService
from ipvs_kube.api import Api
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import DIRECTOR_GROUPS, IPVS_ADDRESSES, IPVS_NODES, PLANS, VIRTUAL_SERVICES
from ipvs_planner.writes import Verb, Write

SPEC_MANAGER, STATUS_MANAGER = "ipvs-operator", "ipvs-operator-status"
"""Field managers: one for what is ours whole, one for the status of what users own."""

RESOURCES = {
    resource.kind: resource for resource in (VIRTUAL_SERVICES, DIRECTOR_GROUPS, PLANS, IPVS_NODES, IPVS_ADDRESSES)
}
Written = VirtualService | DirectorGroup | VirtualServicePlan | IPVSNode | IPVSAddress
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    type_.__name__: msgspec.json.Decoder(type_)
    for type_ in (VirtualService, DirectorGroup, VirtualServicePlan, IPVSNode, IPVSAddress)
}


class NotOursError(Exception):
    """The right to write was lost before this was sent."""


def body(write: Write) -> dict[str, Any]:
    """What goes over the wire, without kind and apiVersion."""
    made: dict[str, Any] = {"metadata": _metadata(write.metadata, whole=write.verb is not Verb.STATUS)}
    if write.spec is not None:
        made["spec"] = msgspec.to_builtins(write.spec)
    if write.status is not None:
        made["status"] = msgspec.to_builtins(write.status)
    return made


def _metadata(meta: ObjectMeta, *, whole: bool) -> dict[str, Any]:
    """Fences, and what is ours to say of an object's metadata."""
    made: dict[str, Any] = {"name": meta.name}
    fences = {"namespace": meta.namespace, "uid": meta.uid, "resourceVersion": meta.resource_version}
    made |= {key: value for key, value in fences.items() if value}
    if whole and meta.labels:
        made["labels"] = meta.labels
    if whole and meta.owner_references:
        made["ownerReferences"] = [_reference(owner) for owner in meta.owner_references]
    return made


def _reference(owner: OwnerReference) -> dict[str, Any]:
    made = {"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
    return made | ({"controller": True} if owner.controller else {})


def carry_out(api: Api, write: Write, may_write: Callable[[], bool]) -> Written | None:
    """The object as it is stored now; None: it is gone, or will be.

    ApiError; NotOursError where ``may_write``, asked last of all, says no.
    """
    resource, meta = RESOURCES[write.kind], write.metadata
    sent = body(write)
    if not may_write():
        raise NotOursError
    if write.verb is Verb.DELETE:
        api.delete(resource, meta.namespace, meta.name, uid=meta.uid, resource_version=meta.resource_version)
        return None
    if write.verb is Verb.CREATE:
        answer = api.create(resource, meta.namespace, sent, SPEC_MANAGER)
    elif write.verb is Verb.STATUS:
        answer = api.apply(resource, meta.namespace, meta.name, sent, STATUS_MANAGER, subresource="status")
    else:
        answer = api.apply(resource, meta.namespace, meta.name, sent, SPEC_MANAGER)
    return _decoded(write.kind, answer)


def fetch(api: Api, kind: str, namespace: str, name: str) -> Written:
    """The object as it is stored now. ApiError ``not_found``: it is not."""
    return _decoded(kind, api.get(RESOURCES[kind], namespace, name))


def _decoded(kind: str, data: bytes) -> Written:
    try:
        decoded: Written = _DECODERS[kind].decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ApiError(0, "Unreadable", f"{kind}: the API server's answer cannot be read: {error}") from error
    return decoded
