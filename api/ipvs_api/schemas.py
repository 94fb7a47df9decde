"""The CRDs of ``crds/``, which are shipped with this package, and the JSON schemas in them."""

import re
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from ipvs_api import yaml_reader
from ipvs_api.core import EndpointSlice, Namespace, Node, Service
from ipvs_api.meta import ObjectMeta

CRD_FILES = {
    "VirtualService": "virtualservices.yaml",
    "DirectorGroup": "directorgroups.yaml",
    "VirtualServicePlan": "virtualserviceplans.yaml",
    "IPVSNode": "ipvsnodes.yaml",
    "IPVSAddress": "ipvsaddresses.yaml",
}
"""The file of each kind's CustomResourceDefinition."""

CORE = {type_.__name__: type_ for type_ in (Node, Namespace, Service, EndpointSlice)}
"""Kubernetes' own kinds, of which we read a part."""


def crd_text(kind: str) -> str:
    """The CustomResourceDefinition of one of our kinds as it is in the repository, comments included."""
    return files("ipvs_api").joinpath("crds", CRD_FILES[kind]).read_text(encoding="utf-8")


@cache
def crd(kind: str) -> dict[str, Any]:
    """The CustomResourceDefinition of one of our kinds. Not to be changed: it is shared."""
    reading = yaml_reader.read(crd_text(kind).encode())
    definition: dict[str, Any] = msgspec.convert(reading.documents[0].value, dict[str, Any])
    return definition


def openapi_schema(kind: str) -> dict[str, Any]:
    """The structural schema in that CRD (``openAPIV3Schema`` of its one version)."""
    (version,) = crd(kind)["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


@cache
def json_schema(kind: str) -> dict[str, Any]:
    """What a JSON schema validator needs to judge an object that a person wrote: ours, or one of ``CORE``.

    Ours have the metadata that we read in it, and no status, which is nobody's to write. Fields that are null are taken
    to be left out before.
    """
    if kind in CORE:
        found: dict[str, Any] = _without_null(msgspec.json.schema(CORE[kind]))
        return found
    schema: dict[str, Any] = _json_schema(openapi_schema(kind))
    metadata = msgspec.json.schema(ObjectMeta)["$defs"]["ObjectMeta"]
    properties = {name: part for name, part in schema["properties"].items() if name != "status"}
    return schema | {
        "properties": properties | {"metadata": metadata},
        "required": ["metadata", *schema.get("required", ())],
    }


def _without_null(part: Any) -> Any:
    """Without the alternative ``null``, so that what is wrong is told of the other one."""
    if isinstance(part, list):
        return [_without_null(item) for item in part]
    if not isinstance(part, dict):
        return part
    match part.get("anyOf"):
        case [other, {"type": "null"}] | [{"type": "null"}, other]:
            return _without_null({key: value for key, value in part.items() if key != "anyOf"} | other)
    return {key: _without_null(value) for key, value in part.items()}


def _json_schema(part: Any) -> Any:
    """OpenAPI as Kubernetes has it, in JSON schema's words and Python's regular expressions."""
    if isinstance(part, list):
        return [_json_schema(item) for item in part]
    if not isinstance(part, dict):
        return part
    schema = {key: _json_schema(value) for key, value in part.items() if not key.startswith("x-kubernetes-")}
    if isinstance(pattern := schema.get("pattern"), str):
        schema["pattern"] = re.sub(r"\$(?=\||\Z)", r"\\Z", pattern)
    if part.get("x-kubernetes-int-or-string"):
        schema["type"] = ["integer", "string"]
    return schema
