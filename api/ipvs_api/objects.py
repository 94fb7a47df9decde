"""One object as plain values, from a person or a dump of a cluster, to its type or the reasons why not."""

from difflib import get_close_matches
from typing import Any, NamedTuple

import msgspec

from ipvs_api import API_VERSION, GROUP
from ipvs_api.closed import is_closed
from ipvs_api.core import EndpointSlice, Namespace, Node, Service
from ipvs_api.directorgroup import DirectorGroup
from ipvs_api.explain import Fault, faults, without_nulls
from ipvs_api.meta import Loose, ObjectKey
from ipvs_api.virtualservice import VirtualService

Declared = VirtualService | DirectorGroup | Node | Namespace | Service | EndpointSlice
"""What people and clusters declare, as far as it is read here."""


class Refusal(NamedTuple):
    """``key``: None where the object cannot be told from others. ``passed_over``: it is none of our business."""

    key: ObjectKey | None
    faults: tuple[Fault, ...]
    passed_over: bool = False


def key_of(object_: Declared) -> ObjectKey:
    return ObjectKey(type(object_).__name__, object_.metadata.namespace, object_.metadata.name)


def decode(value: Any) -> Declared | Refusal:
    """The object, in namespace ``default`` if it has a namespace and names none, or all faults that its schema finds.

    ``status`` of our own kinds is passed over.
    """
    if not isinstance(value, dict):
        return Refusal(None, (Fault((), "expected an object: a mapping with apiVersion, kind and metadata"),))
    refusal = _unknown(value)
    if refusal is not None:
        return refusal
    kind: str = value["kind"]
    ours = kind in _OURS
    written = {name: part for name, part in value.items() if name != "status"} if ours else value
    try:
        object_ = _convert(written, kind)
    except msgspec.ValidationError:
        try:
            object_ = _convert(without_nulls(written), kind)
        except msgspec.ValidationError as error:
            return _refusal(value, written, str(error))
    if isinstance(object_, Loose) or is_closed(type(object_))(written):
        return _in_namespace(object_)
    return _refusal(value, written, "an unknown field, or a list item twice")


_OURS: dict[str, type[Declared]] = {"VirtualService": VirtualService, "DirectorGroup": DirectorGroup}
_THEIRS: dict[tuple[str, str], type[Declared]] = {
    ("v1", "Node"): Node,
    ("v1", "Namespace"): Namespace,
    ("v1", "Service"): Service,
    ("discovery.k8s.io/v1", "EndpointSlice"): EndpointSlice,
}
"""By ``apiVersion`` and ``kind``."""
_DECLARED = _OURS | {kind: type_ for (_, kind), type_ in _THEIRS.items()}
_WRITTEN_BY_OPERATOR = ("VirtualServicePlan", "IPVSNode", "IPVSAddress")
_NAMESPACED = ("VirtualService", "Service", "EndpointSlice")
_ISTIO = "networking.istio.io"


def _convert(value: dict[str, Any], kind: str) -> Declared:
    return msgspec.convert(value, _DECLARED[kind])


def _refusal(value: dict[str, Any], written: dict[str, Any], problem: str) -> Refusal:
    """All that the schema finds; ``problem`` is for what it does not see."""
    return Refusal(_key(value), tuple(faults(value["kind"], written)) or (Fault((), problem),))


def _in_namespace(object_: Declared) -> Declared:
    kind, namespace, _ = key_of(object_)
    wanted = (namespace or "default") if kind in _NAMESPACED else ""
    if namespace == wanted:
        return object_
    metadata = msgspec.structs.replace(object_.metadata, namespace=wanted)
    return msgspec.structs.replace(object_, metadata=metadata)


def _key(value: dict[str, Any]) -> ObjectKey | None:
    metadata = value.get("metadata")
    kind, name = value.get("kind"), metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(kind, str) or not isinstance(name, str) or not isinstance(metadata, dict):
        return None
    namespace = metadata.get("namespace")
    if kind in _NAMESPACED:
        return ObjectKey(kind, namespace if isinstance(namespace, str) and namespace else "default", name)
    return ObjectKey(kind, namespace if isinstance(namespace, str) and kind not in _DECLARED else "", name)


def _unknown(value: dict[str, Any]) -> Refusal | None:
    """Why an object is not one that is read here, by ``apiVersion`` and ``kind``; None: it is."""
    version, kind = value.get("apiVersion"), value.get("kind")
    if not isinstance(kind, str):
        return Refusal(None, (_no_text(value, "kind"),))
    if not isinstance(version, str):
        return Refusal(_key(value) if kind in _DECLARED else None, (_no_text(value, "apiVersion"),))
    group = version.rpartition("/")[0]
    if (version, kind) in _THEIRS or (version == API_VERSION and kind in _OURS):
        return None
    if group == GROUP and kind not in _OURS:
        if kind in _WRITTEN_BY_OPERATOR:
            return _passed_over(value, f"{kind} is the operator's to write")
        close = get_close_matches(kind, _OURS, n=1)
        hint = f'; did you mean "{close[0]}"?' if close else f"; known here: {', '.join(_OURS)}"
        return Refusal(None, (Fault(("kind",), f'"{kind}" is unknown in {GROUP}{hint}'),))
    if kind == "DirectorGroup" or (kind == "VirtualService" and group != _ISTIO):
        return Refusal(_key(value), (Fault(("apiVersion",), f'found "{version}", expected {API_VERSION}'),))
    return _passed_over(value, f"{kind} of {version} is not read")


def _no_text(value: dict[str, Any], field: str) -> Fault:
    return Fault((field,), "expected text") if field in value else Fault((), f'field "{field}" is missing')


def _passed_over(value: dict[str, Any], why: str) -> Refusal:
    return Refusal(_key(value), (Fault((), f"passed over: {why}"),), passed_over=True)
