"""Small worlds to plan in: objects in few words, and what came of them."""

from collections.abc import Iterable
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

from ipvs_api.core import Node
from ipvs_api.directorgroup import DirectorGroup
from ipvs_api.node import IPVSNodeStatus
from ipvs_api.plan import VirtualServicePlan
from ipvs_api.virtualservice import VirtualService
from ipvs_planner.compile import compile_virtual_service
from ipvs_planner.compiled import Compiled, Outcome
from ipvs_planner.index import Key
from ipvs_planner.snapshot import Declared, Snapshot

DIRECTOR = {"ipvs.dev/director": "true"}
WEB = Key("shop", "web")


def port(text: str) -> dict[str, Any]:
    """``80``, ``80:8080`` (port and target port), ``53/UDP``."""
    numbers, _, protocol = text.partition("/")
    number, _, target = numbers.partition(":")
    return {
        "name": text.lower().replace(":", "-").replace("/", "-"),
        "port": int(number),
        "protocol": protocol or "TCP",
        "targetPort": int(target or 0),
    }


def server(text: str) -> dict[str, Any]:
    """``10.0.0.11`` or ``10.0.0.11*3`` (weight)."""
    address, _, weight = text.partition("*")
    return {"address": address, "weight": int(weight or 1)}


def service(
    name: str = "web",
    *,
    namespace: str = "shop",
    created: str = "",
    group: str = "edge",
    vips: Iterable[str] = ("192.0.2.10",),
    ports: Iterable[str] = ("80",),
    servers: Iterable[str] = ("10.0.0.11", "10.0.0.12"),
    **spec: Any,
) -> VirtualService:
    value = {
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": created, "generation": 1},
        "spec": {
            "directorGroup": group,
            "addresses": list(vips),
            "ports": [port(text) for text in ports],
            "backends": {"static": [server(text) for text in servers]},
        }
        | spec,
    }
    return msgspec.convert(value, VirtualService)


def group(
    name: str = "edge",
    addresses: Iterable[str] = ("192.0.2.0/28", "2001:db8::/120"),
    announcement: str = "static",
    **spec: Any,
) -> DirectorGroup:
    value = {
        "metadata": {"name": name, "generation": 1},
        "spec": {
            "nodeSelector": {"matchLabels": DIRECTOR},
            "addresses": list(addresses),
            "announcement": {announcement: {}},
        }
        | spec,
    }
    return msgspec.convert(value, DirectorGroup)


def node(name: str, *addresses: str, pods: Iterable[str] = (), director: bool = False, **labels: str) -> Node:
    value = {
        "metadata": {"name": name, "labels": labels | (DIRECTOR if director else {})},
        "spec": {"podCIDRs": list(pods)},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
    }
    return msgspec.convert(value, Node)


BASE: tuple[Declared, ...] = (
    group(),
    node("lb1", "10.0.0.1", "2001:db8:1::1", pods=["10.1.1.0/24"], director=True),
    node("rs1", "10.0.0.11", "2001:db8:1::11", pods=["10.1.2.0/24"]),
    node("rs2", "10.0.0.12", "2001:db8:1::12", pods=["10.1.3.0/24"]),
)
"""One group, one director, two real servers, each with a podCIDR of its own."""


class World:
    """A snapshot, and a caller who does with the results what a caller should: what is planned is held."""

    def __init__(self, *declared: Declared, trusted: bool = True) -> None:
        self.snapshot = Snapshot(trusted=trusted)
        self.stored: dict[Key, tuple[VirtualServicePlan, ...]] = {}
        self.results: dict[Key, Compiled] = {}
        self.put(*declared)

    def put(self, *declared: Declared) -> set[Key]:
        """Put objects one after another; all that was compiled again."""
        return self._settle({key for each in declared for key in self.snapshot.put(each)})

    def remove(self, kind: str, name: str, namespace: str = "") -> set[Key]:
        return self._settle(self.snapshot.remove(kind, namespace, name))

    def _settle(self, affected: set[Key]) -> set[Key]:
        seen: set[Key] = set()
        for _ in range(1000):
            if not affected:
                return seen
            key = min(affected)
            affected.discard(key)
            seen.add(key)
            affected |= self._compile(key)
        raise AssertionError(f"never settles: {affected}")

    def _compile(self, key: Key) -> set[Key]:
        result = compile_virtual_service(self.snapshot, key)
        if self.snapshot.facts(key) is None:
            self.results.pop(key, None)
        else:
            self.results[key] = result
        if result.outcome is Outcome.KEPT:
            return set()
        self.stored[key] = result.plans
        if not result.plans:
            del self.stored[key]
        return self.snapshot.hold(key, result.claims)

    def outcomes(self) -> dict[str, str]:
        """By name: Planned, or the reasons against it."""
        return {
            str(key): " ".join(sorted({finding.reason for finding in result.refusals})) or str(result.outcome)
            for key, result in sorted(self.results.items())
        }


def compiled(*declared: Declared, trusted: bool = True, key: Key = WEB) -> Compiled:
    snapshot = Snapshot(trusted=trusted)
    for each in declared:
        snapshot.put(each)
    return compile_virtual_service(snapshot, key)


def reasons(result: Compiled) -> set[str]:
    return {str(finding.reason) for finding in result.refusals}


def notes(result: Compiled) -> set[str]:
    """Without the one that every virtual service with a health check has."""
    return {str(finding.reason) for finding in result.notes} - {"HealthNotChecked"}


def plan(result: Compiled) -> VirtualServicePlan:
    """The only slice."""
    assert result.refusals == ()
    (only,) = result.plans
    return only


def roles(result: Compiled) -> dict[str, str]:
    """By real server: its role and node."""
    return {
        server.address: f"{backend.role} {backend.node}".strip()
        for each in result.plans
        for backend in each.spec.backends
        for server in backend.servers
    }


def report(version: str = "", **fields: Any) -> IPVSNodeStatus:
    return msgspec.convert({"observedResourceVersion": version, **fields}, IPVSNodeStatus)


def unchecked(kind: Any, value: Any) -> Any:
    """``value`` as ``kind``, without the bounds that decoding would check: what no API server lets through."""
    if get_origin(kind) is Annotated:
        return unchecked(get_args(kind)[0], value)
    if get_origin(kind) in (Union, UnionType):
        kinds = [part for part in get_args(kind) if part is not type(None)]
        return None if value is None else unchecked(kinds[0], value) if len(kinds) == 1 else value
    if get_origin(kind) is tuple:
        return tuple(unchecked(get_args(kind)[0], item) for item in value)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        known = msgspec.structs.fields(kind)
        return kind(**{f.name: unchecked(f.type, value[f.encode_name]) for f in known if f.encode_name in value})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    return value
