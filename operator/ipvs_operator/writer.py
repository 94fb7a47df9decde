"""Carries out what a reconciliation asks for: one request for one ``Write``. May be called from any thread."""

from collections.abc import Callable
from typing import Any

import msgspec

from ipvs_api.core import Service
from ipvs_api.directorgroup import DirectorGroup
from ipvs_api.ipaddress import IPVSAddress
from ipvs_api.meta import ObjectMeta, OwnerReference
from ipvs_api.node import IPVSNode
from ipvs_api.plan import VirtualServicePlan
from ipvs_api.virtualservice import VirtualService
from ipvs_kube.api import Api
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import DIRECTOR_GROUPS, IPVS_ADDRESSES, IPVS_NODES, PLANS, SERVICES, VIRTUAL_SERVICES
from ipvs_planner.writes import Verb, Write

SPEC_MANAGER, STATUS_MANAGER = "ipvs-operator", "ipvs-operator-status"
"""Field managers: one for what is ours whole, one for the status of what users own."""

RESOURCES = {
    resource.kind: resource
    for resource in (VIRTUAL_SERVICES, DIRECTOR_GROUPS, PLANS, IPVS_NODES, IPVS_ADDRESSES, SERVICES)
}
Written = VirtualService | DirectorGroup | VirtualServicePlan | IPVSNode | IPVSAddress | Service
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    type_.__name__: msgspec.json.Decoder(type_)
    for type_ in (VirtualService, DirectorGroup, VirtualServicePlan, IPVSNode, IPVSAddress, Service)
}


class NotOursError(Exception):
    """The right to write was lost before this was sent."""


def body(write: Write) -> dict[str, Any]:
    """What goes over the wire, without kind and apiVersion."""
    made: dict[str, Any] = {"metadata": _metadata(write.metadata, whole=write.verb is not Verb.STATUS)}
    if write.spec is not None:
        made["spec"] = _explicit(write.spec) if write.kind == "VirtualService" else msgspec.to_builtins(write.spec)
    if write.status is not None:
        made["status"] = _status(write.status)
    return made


def _status(status: msgspec.Struct) -> dict[str, Any]:
    """With the words of all conditions, also where there are none: those of a CRD's default would stay."""
    made: dict[str, Any] = msgspec.to_builtins(status)
    for condition in made.get("conditions", ()):
        condition.setdefault("message", "")
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


def _explicit(value: Any) -> Any:
    """With every default but empty lists, so that they are ours to say where users may write, too."""
    if isinstance(value, tuple):
        return [_explicit(each) for each in value]
    if not isinstance(value, msgspec.Struct):
        return value
    fields = ((each, getattr(value, each.name)) for each in msgspec.structs.fields(value))
    said = ((each, item) for each, item in fields if item is not None and item is not msgspec.UNSET)
    return {each.encode_name: _explicit(item) for each, item in said if not item == each.default == ()}


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
        # What may be new is not taken from anybody who was quicker.
        answer = api.apply(resource, meta.namespace, meta.name, sent, SPEC_MANAGER, force=bool(meta.uid))
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
