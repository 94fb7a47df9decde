"""Whatever the schema lets through is planned, or refused with a reason and a field; nothing ever raises.

Objects come from a walk over ``crds/virtualservices.yaml`` itself: every field, every enum, every bound. Rules between
fields (CEL) are broken as chance will have it.
"""

import re
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ipvs_api.meta import ObjectMeta
from ipvs_api.plan import VirtualServicePlan
from ipvs_api.schemas import openapi_schema
from ipvs_api.virtualservice import VirtualService, VirtualServiceStatus
from ipvs_planner.compile import compile_virtual_service
from ipvs_planner.compiled import Compiled
from ipvs_planner.fold import fold
from ipvs_planner.index import Key
from ipvs_planner.order import NOTHING_SAID, merged, staged
from ipvs_planner.reasons import Reason
from ipvs_planner.reconcile import reconcile
from ipvs_planner.snapshot import Snapshot

from .backed import core, slice_
from .worlds import BASE, group, node, report

NOW = "2026-01-01T00:00:00Z"
COUNT = 2500
SEED = 20260101

V4 = ["10.0.0.11", "10.0.0.12", "10.1.2.7", "10.1.1.9", "10.9.9.9"]
TEXTS: dict[str, list[str]] = {
    "spec.directorGroup": [*["edge"] * 12, "dual", "dual", "broken", "far"],
    "spec.addresses[]": [
        "192.0.2.3",
        "192.0.2.4",
        "2001:db8::5",
        "198.51.100.1",
        "999.9.9.9",
        "::",
        "1.2.3",
        "224.0.0.1",
    ],
    "spec.ports[].name": ["a", "b", "c", "web"],
    "spec.ports[].servicePort": ["http", "dns", "nobody"],
    "spec.allowedSources[]": ["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32", "10.0.0.1/8", "10.0.0.0/99"],
    "spec.backends.service.name": ["web", "web", "web", "dual", "external", "nobody"],
    "spec.backends.static[].address": [*V4 * 3, "2001:db8:1::11", "fd00:3::5", "192.0.2.3", "10.0.0", "127.0.0.1"],
    "spec.fallback.address": ["10.9.9.8", "10.9.9.9", "0.0.0.0"],
}
"""Of texts with a pattern there are too many that mean nothing; these all match theirs."""

OFTEN = {"spec.addresses": 0.3, "spec.forwarding": 0.6, "spec.scheduler": 0.6, "spec.ports[].protocol": 0.5}
"""How often an optional field is there; else once in twelve."""


class Walk:
    """Random values of a structural schema."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.seen: Counter[str] = Counter()

    def value(self, schema: dict[str, Any], where: str) -> Any:
        self.seen[where] += 1
        if "enum" in schema:
            return self.chance.choice(schema["enum"])
        if schema.get("x-kubernetes-int-or-string"):
            return self.chance.choice([self.integer(schema), self.chance.choice(TEXTS[where])])
        return getattr(self, schema["type"])(schema, where)

    def object(self, schema: dict[str, Any], where: str) -> dict[str, Any]:
        required, properties = schema.get("required", ()), schema.get("properties", {})
        chosen = {name for name in properties if name in required or self.wanted(f"{where}.{name}")}
        if where == "spec.backends" and self.chance.random() < 0.95:
            chosen = {self.chance.choice(["service", "static"])}
        return {name: self.value(properties[name], f"{where}.{name}") for name in properties if name in chosen}

    def wanted(self, where: str) -> bool:
        return self.chance.random() < OFTEN.get(where, 1 / 12)

    def array(self, schema: dict[str, Any], where: str) -> list[Any]:
        least = schema.get("minItems", 0)
        count = self.chance.randint(least, min(schema["maxItems"], least + 2))
        found = [self.value(schema["items"], f"{where}[]") for _ in range(count)]
        keys = schema.get("x-kubernetes-list-map-keys")
        unique = {tuple(each[key] for key in keys) if keys else each: each for each in found}
        return list(unique.values())

    def integer(self, schema: dict[str, Any], where: str = "") -> int:
        low, high = schema["minimum"], schema["maximum"]
        usual = [value for value in (80, 443, 53, schema.get("default", low)) if low <= value <= high]
        return self.chance.choice([low, high, self.chance.randint(low, high), *usual * 3])

    def boolean(self, schema: dict[str, Any], where: str) -> bool:
        return self.chance.random() < 0.3

    def string(self, schema: dict[str, Any], where: str) -> str:
        text = self.chance.choice(TEXTS[where])
        assert re.search(schema["pattern"], text)
        assert schema["minLength"] <= len(text) <= schema["maxLength"]
        return text


def world() -> Snapshot:
    snapshot = Snapshot(plan_namespace="ipvs-system", allocates=True)
    dual = ["192.0.2.16/28", "2001:db8:2::/120"]
    tiny = {"nodeSelector": {"matchLabels": {"nobody": "has"}}}
    pods = ["10.1.1.5@lb1", "10.1.2.5@rs1", "10.1.3.5@rs2 no yes yes", "10.0.0.77"]
    six = slice_("dual-6", ["2001:db8:1::11@rs1"], ["http:8080", "dns:53/UDP"], of="dual", family="IPv6")
    ports = ["http:80", "dns:53/UDP", "https:443"]
    for each in (
        *BASE[1:],
        group(allowedStaticBackends=["10.0.0.0/8", "2001:db8:1::/64"], addresses=["192.0.2.0/28"]),
        group("dual", dual, "none", allowedStaticBackends=["10.0.0.0/8", "2001:db8:1::/64"]),
        group("broken", ["999.0.2.0/28"]),
        group("far", ["203.0.113.0/28"], **tiny),
        node("lb2", "10.0.0.2", director=True),
        node("rs3", "10.0.0.13", pods=["fd00:3::/64"]),
        core(ports),
        core(ports, "dual", families=["IPv4", "IPv6"]),
        core(ports, "external", type="ExternalName", externalName="example.com"),
        slice_("web-1", pods, ["http:8080", "dns:53/UDP", "https:443"]),
        slice_("dual-4", pods[:2], ["http:80", "dns:5353/UDP"], of="dual"),
        six,
    ):
        snapshot.put(each)
    return snapshot


def services() -> Iterator[tuple[int, VirtualService]]:
    walk = Walk(SEED)
    schema = openapi_schema("VirtualService")["properties"]["spec"]
    for number in range(COUNT):
        value = {"metadata": {"name": "any", "namespace": "shop", "uid": "uid-1"}, "spec": walk.value(schema, "spec")}
        yield number, msgspec.convert(value, VirtualService)


def planned(snapshot: Snapshot, key: Key) -> Compiled:
    """After its claims have been made, as they would be."""
    result = compile_virtual_service(snapshot, key)
    for claim in result.claiming:
        meta = ObjectMeta(claim.metadata.name, uid=claim.metadata.uid or "uid-2", resource_version="1")
        snapshot.put(replace(claim, metadata=meta))
    again = compile_virtual_service(snapshot, key)
    assert not again.claiming
    return again


FIELD = re.compile(r"\b(spec|status)\.[a-z][A-Za-z]+")


def check(snapshot: Snapshot, key: Key) -> Compiled:
    result = planned(snapshot, key)
    assert bool(result.refusals) != bool(result.plans)
    for finding in (*result.refusals, *result.notes):
        assert isinstance(finding.reason, Reason)
        assert finding.message
    for finding in result.refusals:
        assert FIELD.search(finding.message), finding
    for plan in result.plans:
        assert msgspec.json.decode(msgspec.json.encode(plan), type=VirtualServicePlan) == plan
    said = {name: report("9") for name in ("lb1", "lb2", "rs1")}
    for reports in ({}, said):
        status = fold(result, reports, None, NOW)
        assert msgspec.json.decode(msgspec.json.encode(status), type=VirtualServiceStatus) == status
    wanted, stored, words = merged(result.plans), (), {}
    for _ in range(4):
        stored = staged(wanted, stored, words)
        words = {node_: NOTHING_SAID._replace(reached=True, draining=lambda _: False) for node_ in said}
    assert bool(stored) == bool(wanted)
    assert reconcile(snapshot, key, NOW).writes
    return result


@pytest.mark.slow
def test_whatever_the_schema_lets_through_has_a_plan_or_a_reason() -> None:
    snapshot, key = world(), Key("shop", "any")
    found: Counter[str] = Counter()
    for number, service in services():
        snapshot.put(service)
        try:
            result = check(snapshot, key)
        except Exception as error:
            raise AssertionError(f"number {number}: {msgspec.to_builtins(service.spec)}") from error
        found.update({str(finding.reason) for finding in result.refusals} or {"Planned"})
        snapshot.remove("VirtualService", "shop", "any")
        for address in list(snapshot.addresses.pool.claims.values()):
            snapshot.remove("IPVSAddress", "", address.object().metadata.name)
    assert found["Planned"] >= 0.3 * COUNT
    assert len(found) > 20, "most reasons have been met"


def test_every_field_of_the_schema_was_walked() -> None:
    def paths(schema: dict[str, Any], where: str) -> Iterator[str]:
        yield where
        for name, part in schema.get("properties", {}).items():
            yield from paths(part, f"{where}.{name}")
        if "items" in schema:
            yield from paths(schema["items"], f"{where}[]")

    walk, schema = Walk(SEED), openapi_schema("VirtualService")["properties"]["spec"]
    for _ in range(COUNT):
        walk.value(schema, "spec")
    assert set(paths(schema, "spec")) == walk.seen.keys()
