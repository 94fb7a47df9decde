"""The CRDs' CEL rules, evaluated over the table of refusals that the planner is held to as well."""

import ipaddress
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import celpy
import pytest
from celpy import celtypes
from celpy.adapter import json_to_cel

from ipvs_api import yaml_reader
from ipvs_api.explain import faults, field_text
from ipvs_api.schemas import CRD_FILES, openapi_schema

TABLE = Path(__file__).parents[2] / "cases" / "refusals.yaml"


def table() -> dict[str, Any]:
    (document,) = yaml_reader.read(TABLE.read_bytes()).documents
    assert document.repeated == ()
    return dict(document.value)


BASE = table()["base"]
CASES = table()["cases"]


class Rule(NamedTuple):
    """``where``: properties, and ``[]`` for the members of a list, from the object's root."""

    kind: str
    where: tuple[str, ...]
    expression: str
    message: str
    field_path: str

    def __str__(self) -> str:
        return f"{'.'.join(self.where).replace('.[]', '[]')}: {self.message}"


def nodes(schema: dict[str, Any], where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    yield where, schema
    for name, part in schema.get("properties", {}).items():
        yield from nodes(part, (*where, name))
    if "items" in schema:
        yield from nodes(schema["items"], (*where, "[]"))


RULES = [
    Rule(kind, where, rule["rule"], rule["message"], rule.get("fieldPath", ""))
    for kind in CRD_FILES
    for where, schema in nodes(openapi_schema(kind))
    for rule in schema.get("x-kubernetes-validations", ())
]


def is_ip(text: celtypes.StringType) -> celtypes.BoolType:
    """Kubernetes' ``isIP``: what Go's netip parses, without zones and without IPv4 inside IPv6."""
    try:
        address = ipaddress.ip_address(str(text))
    except ValueError:
        return celtypes.BoolType(False)
    mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    return celtypes.BoolType(not mapped and "%" not in text)


def is_cidr(text: celtypes.StringType) -> celtypes.BoolType:
    """Kubernetes' ``isCIDR``: an address and a prefix length, whatever the bits behind it."""
    try:
        ipaddress.ip_interface(str(text))
    except ValueError:
        return celtypes.BoolType(False)
    return celtypes.BoolType("/" in text and is_ip(celtypes.StringType(text.split("/")[0])))


def split(text: celtypes.StringType, separator: celtypes.StringType) -> celtypes.ListType:
    return celtypes.ListType([celtypes.StringType(part) for part in str(text).split(separator)])


@cache
def program(expression: str) -> celpy.Runner:
    environment = celpy.Environment()
    functions: dict[str, Any] = {"isIP": is_ip, "isCIDR": is_cidr, "split": split}
    return environment.program(environment.compile(expression), functions=functions)


def holds(rule: Rule, value: Any, old: Any) -> bool:
    arguments = {"self": json_to_cel(value)}
    if old is not None:
        arguments["oldSelf"] = json_to_cel(old)
    return bool(program(rule.expression).evaluate(arguments))


def values(value: Any, where: tuple[str, ...]) -> Iterator[Any]:
    if not where:
        yield value
    elif where[0] == "[]":
        for item in value:
            yield from values(item, where[1:])
    elif where[0] in value:
        yield from values(value[where[0]], where[1:])


def verdicts(rule: Rule, value: Any, old: Any) -> list[bool]:
    """Of one rule, on every value of the object that it is about; a rule on a change only when there is one."""
    found = list(values(value, rule.where))
    if "oldSelf" not in rule.expression:
        return [holds(rule, part, None) for part in found]
    return [holds(rule, part, before) for part in found for before in values(old or {}, rule.where)]


def patched(value: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, part in patch.items():
        if part is None:
            result.pop(key, None)
        else:
            result[key] = patched(result.get(key), part)
    return result


def with_defaults(schema: dict[str, Any], value: Any) -> Any:
    """As an API server fills in what is absent, before CEL sees it."""
    if isinstance(value, list):
        return [with_defaults(schema["items"], item) for item in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    filled = {name: part["default"] for name, part in properties.items() if "default" in part} | value
    return {name: with_defaults(properties.get(name, {}), part) for name, part in filled.items()}


class Judged(NamedTuple):
    schema_faults: list[str]
    broken: set[str]
    held: set[tuple[str, str]]


@cache
def judged(name: str) -> Judged:
    (case,) = (case for case in CASES if case["name"] == name)
    kind = case["kind"]
    written = patched(BASE[kind], case["patch"])
    found = [field_text(fault.path) for fault in faults(kind, written)]
    if found:
        return Judged(found, set(), set())
    value = with_defaults(openapi_schema(kind), written)
    old = with_defaults(openapi_schema(kind), patched(BASE[kind], case["old"])) if "old" in case else None
    results = {rule: verdicts(rule, value, old) for rule in RULES if rule.kind == kind}
    return Judged(
        [],
        {str(rule) for rule, each in results.items() if not all(each)},
        {(kind, str(rule)) for rule, each in results.items() if each and all(each)},
    )


@pytest.mark.parametrize("name", [case["name"] for case in CASES])
def test_a_case_is_refused_by_exactly_its_rule_or_its_field_of_the_schema(name: str) -> None:
    (case,) = (case for case in CASES if case["name"] == name)
    result = judged(name)
    assert result.schema_faults == ([case["schema"]] if "schema" in case else [])
    assert result.broken == ({case["rule"]} if case["rule"] else set())


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_rule_refuses_a_case_and_lets_another_pass(rule: Rule) -> None:
    cases = [case for case in CASES if case["kind"] == rule.kind]
    assert [case["name"] for case in cases if case["rule"] == str(rule)], "no case is refused by it"
    assert [case["name"] for case in cases if (rule.kind, str(rule)) in judged(case["name"]).held], "no case passes it"


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_rule_names_a_field_that_there_is(rule: Rule) -> None:
    schema = openapi_schema(rule.kind)
    path = [*rule.where, *filter(None, rule.field_path.split("."))]
    for part in path:
        schema = schema["items"] if part == "[]" else schema["properties"][part]


def test_rules_are_told_apart_by_field_and_message() -> None:
    names = [(rule.kind, str(rule)) for rule in RULES]
    assert len(names) == len(set(names))
    assert len(names) > 20


def test_case_names_are_unique_and_their_rules_exist() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES)
    known = {(rule.kind, str(rule)) for rule in RULES}
    assert [case["name"] for case in CASES if case["rule"] and (case["kind"], case["rule"]) not in known] == []


@pytest.mark.parametrize("kind", CRD_FILES)
def test_defaults_satisfy_their_own_rules_as_they_are_written(kind: str) -> None:
    """An API server refuses a CRD otherwise: it checks a default before it fills in the defaults inside."""
    for where, schema in nodes(openapi_schema(kind)):
        for rule in schema.get("x-kubernetes-validations", ()) if "default" in schema else ():
            assert holds(Rule(kind, where, rule["rule"], rule["message"], ""), schema["default"], None), where
