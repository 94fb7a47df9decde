"""The types and the CRDs' schemas say the same: every field, type, default, bound and enumeration, both ways."""

import copy
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import NODEFAULT, UNSET, inspect

from ipvs_api.directorgroup import DirectorGroup
from ipvs_api.ipaddress import IPVSAddress
from ipvs_api.meta import ObjectMeta
from ipvs_api.node import IPVSNode
from ipvs_api.plan import Owner, PlanAddress, PlanPort, VirtualServicePlan, VirtualServicePlanSpec
from ipvs_api.schemas import openapi_schema
from ipvs_api.virtualservice import Forwarding, Persistence, Protocol, Scheduler, VirtualService

TYPES = {type_.__name__: type_ for type_ in (VirtualService, DirectorGroup, VirtualServicePlan, IPVSNode, IPVSAddress)}
ROOT = {"apiVersion", "kind", "metadata"}
"""Fields of every object, which API servers check by themselves."""

TEXTS = {"minLength": "min_length", "maxLength": "max_length", "pattern": "pattern"}
NUMBERS = {"minimum": "ge", "maximum": "le", "multipleOf": "multiple_of"}
LISTS = {"minItems": "min_length", "maxItems": "max_length"}
MAPS = {"minProperties": "min_length", "maxProperties": "max_length"}
ATOMIC = {"x-kubernetes-list-type": "atomic"}


def differences(type_: inspect.Type, schema: dict[str, Any], path: str) -> Iterator[str]:
    """``path``, and what each side says."""
    marks: dict[str, Any] = {}
    if isinstance(type_, inspect.Metadata):
        marks, type_ = type_.extra_json_schema or {}, type_.type
    match type_:
        case inspect.UnionType():
            yield from union_differences(type_, schema, path)
        case inspect.StructType():
            yield from compared(path, "type", "object", schema.get("type"))
            yield from struct_differences(type_, schema, path)
        case inspect.VarTupleType():
            yield from compared(path, "type", "array", schema.get("type"))
            yield from bound_differences(type_, schema, LISTS, path)
            told = {key: value for key, value in schema.items() if key.startswith("x-kubernetes-list-")}
            yield from compared(path, "list type", marks or ATOMIC, told)
            yield from differences(type_.item_type, schema.get("items", {}), f"{path}[]")
        case inspect.DictType():
            yield from compared(path, "type", "object", schema.get("type"))
            yield from bound_differences(type_, schema, MAPS, path)
            yield from differences(type_.value_type, schema.get("additionalProperties", {}), f"{path}.*")
        case inspect.EnumType():
            yield from compared(path, "type", "string", schema.get("type"))
            yield from compared(path, "enum", [member.value for member in type_.cls], schema.get("enum"))
        case inspect.StrType():
            yield from compared(path, "type", "string", schema.get("type"))
            yield from compared(path, "enum", None, schema.get("enum"))
            yield from bound_differences(type_, schema, TEXTS, path)
        case inspect.IntType():
            yield from compared(path, "type", "integer", schema.get("type"))
            yield from bound_differences(type_, schema, NUMBERS, path)
        case inspect.BoolType():
            yield from compared(path, "type", "boolean", schema.get("type"))
        case _:
            yield f"{path}: {type_} is not compared"


def union_differences(type_: inspect.UnionType, schema: dict[str, Any], path: str) -> Iterator[str]:
    """A value that may be absent, or a number or text."""
    members = [member for member in type_.types if not isinstance(member, inspect.NoneType)]
    if len(members) == 1:
        yield from differences(members[0], schema, path)
        return
    yield from compared(path, "int or string", True, schema.get("x-kubernetes-int-or-string"))
    for member in members:
        word = "integer" if isinstance(member, inspect.IntType) else "string"
        yield from differences(member, schema | {"type": word}, path)


def struct_differences(type_: inspect.StructType, schema: dict[str, Any], path: str) -> Iterator[str]:
    fields = {field.encode_name: field for field in type_.fields}
    properties = schema.get("properties", {})
    yield from compared(path, "fields", sorted(fields), sorted(properties))
    required = {name for name, field in fields.items() if field.required} - ROOT
    yield from compared(path, "required", sorted(required), sorted(schema.get("required", ())))
    for name in sorted(fields.keys() & properties.keys()):
        field, part, where = fields[name], properties[name], f"{path}.{name}".lstrip(".")
        if path or name not in ROOT:
            yield from differences(field.type, part, where)
            yield from default_differences(field, part, type_.cls, where)


def default_differences(field: inspect.Field, schema: dict[str, Any], owner: type, path: str) -> Iterator[str]:
    """What a field is when it is absent: for an API server that fills it in, and for a type that decodes."""
    default = field.default if field.default_factory is NODEFAULT else field.default_factory()
    if "default" not in schema:
        if default is not NODEFAULT and not is_empty(default):
            yield f"{path}: default is {default!r} in the type, none in the schema"
        return
    if default is NODEFAULT:
        yield f"{path}: default is {schema['default']!r} in the schema, none in the type"
        return
    decoded = msgspec.convert(schema["default"], type(default))
    yield from compared(path, "default", default, decoded)


def is_empty(value: Any) -> bool:
    """Zero, nothing, or made of nothing else: what absence means without a word in the schema."""
    if isinstance(value, msgspec.Struct):
        return all(is_empty(getattr(value, name)) for name in value.__struct_fields__)
    return value is UNSET or not value


def bound_differences(type_: inspect.Type, schema: dict[str, Any], names: dict[str, str], path: str) -> Iterator[str]:
    for in_schema, in_type in names.items():
        told = getattr(type_, in_type)
        if in_schema == "pattern" and told is not None:
            told = told.replace(r"\Z", "$")
        yield from compared(path, in_schema, told, schema.get(in_schema))


def compared(path: str, what: str, in_type: object, in_schema: object) -> Iterator[str]:
    if in_type != in_schema:
        yield f"{path}: {what} is {in_type!r} in the type, {in_schema!r} in the schema"


@pytest.mark.parametrize("kind", TYPES)
def test_types_and_schemas_say_the_same(kind: str) -> None:
    assert list(differences(inspect.type_info(TYPES[kind]), openapi_schema(kind), "")) == []


def steps(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(schema, dict):
        for key, part in schema.items():
            yield (*path, key)
            yield from steps(part, (*path, key))


IGNORED = {"description", "format", "x-kubernetes-map-type", "x-kubernetes-validations", *ROOT}


@pytest.mark.parametrize("kind", TYPES)
def test_any_line_taken_out_of_a_schema_is_a_difference(kind: str) -> None:
    """The comparison above sees everything: each keyword and each field of the schema in turn is missed."""
    schema = copy.deepcopy(openapi_schema(kind))
    type_ = inspect.type_info(TYPES[kind])
    unseen = []
    for path in list(steps(schema)):
        if IGNORED & set(path) or "default" in path[:-1]:
            continue
        parent = schema
        for key in path[:-1]:
            parent = parent[key]
        if path[-1] == "default" and parent["default"] in (False, 0):
            continue  # says what absence means anyway
        before = dict(parent)
        del parent[path[-1]]
        if next(differences(type_, schema, ""), None) is None:
            unseen.append(".".join(path))
        parent.clear()
        parent.update(before)
    assert unseen == []


def test_a_field_default_or_bound_that_only_one_side_has_is_named() -> None:
    schema = copy.deepcopy(openapi_schema("VirtualService"))
    spec = schema["properties"]["spec"]["properties"]
    spec["scheduler"]["enum"].append("magic")
    spec["drain"]["properties"]["timeoutSeconds"]["default"] = 61
    spec["tunnel"]["properties"]["mtu"] = {"type": "integer"}
    spec["ports"]["items"]["required"].append("targetPort")
    spec["fallback"]["properties"]["port"]["maximum"] = 65536
    found = [difference.split(" is ")[0] for difference in differences(inspect.type_info(VirtualService), schema, "")]
    assert sorted(found) == [
        "spec.drain.timeoutSeconds: default",
        "spec.fallback.port: maximum",
        "spec.ports[]: required",
        "spec.scheduler: enum",
        "spec.tunnel: fields",
    ]


def test_a_plan_of_a_newer_operator_is_read_without_what_is_not_known_here() -> None:
    plan = VirtualServicePlan(
        metadata=ObjectMeta(name="shop.web.0"),
        spec=VirtualServicePlanSpec(
            virtual_service=Owner(namespace="shop", name="web"),
            director_group="edge",
            addresses=(PlanAddress("192.0.2.10"),),
            ports=(PlanPort("http", Protocol.TCP, 80),),
            forwarding=Forwarding.DR,
            scheduler=Scheduler.WRR,
            directors=(),
            backends=(),
            persistence=Persistence(),
        ),
    )
    newer = msgspec.to_builtins(plan)
    newer["spec"] |= {"colour": "green", "persistence": {"colour": "green"}}
    assert msgspec.json.decode(msgspec.json.encode(newer), type=VirtualServicePlan) == plan
