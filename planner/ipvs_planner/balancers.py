"""From a Service of type LoadBalancer to the VirtualService that it asks for, or the reasons why not. Pure and total.

What groups, nodes and others have to say, that VirtualService's own status tells.
"""

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from typing import Any, NamedTuple

from msgspec import UNSET

from ipvs_api.bounds import DNS_SUBDOMAIN
from ipvs_api.core import CoreServicePort, Service, ServiceSpec
from ipvs_api.meta import ObjectMeta
from ipvs_api.virtualservice import (
    Backends,
    Drain,
    Forwarding,
    HealthCheck,
    HealthCheckType,
    NatSpec,
    Persistence,
    Port,
    Protocol,
    ReturnPath,
    Scheduler,
    ServiceReference,
    TunnelSpec,
    TunnelType,
    VirtualService,
    VirtualServiceSpec,
)
from ipvs_planner import annotations
from ipvs_planner.backends import CLASS_PREFIX
from ipvs_planner.packed import Address, parse_address
from ipvs_planner.reasons import Finding, Reason
from ipvs_planner.written import take_in

PORTS, SOURCES = 64, 256
"""Ports and source ranges of one VirtualService."""

CLIENT_IP_SECONDS = 10_800
"""Timeout of ``sessionAffinity: ClientIP`` where nobody says (``k8s.io/api/core/v1``)."""

_NAME = re.compile(DNS_SUBDOMAIN)
_LENGTHS = {
    "persistence-ipv4-prefix-length": Persistence().ipv4_prefix_length,
    "persistence-ipv6-prefix-length": Persistence().ipv6_prefix_length,
}
_OF_ANNOTATIONS = (
    Reason.TUNNEL_PORT,
    Reason.ONE_PACKET_FORWARDING,
    Reason.ONE_PACKET_PROTOCOL,
    Reason.SCHEDULER_FLAGS,
)
"""Refusals of what no field of a Service can say."""


class Asked(NamedTuple):
    """``spec``: None where there are refusals."""

    spec: VirtualServiceSpec | None
    refusals: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()


def asked(service: Service) -> Asked:
    """``service``: one that asks for a load balancer of ours (``backends.is_balancer``)."""
    said = annotations.read(service.metadata.annotations)
    refusals = [*said.findings]
    values, written = said.values, service.spec
    group = written.load_balancer_class.removeprefix(CLASS_PREFIX)
    if not _is_name(group):
        found = f"spec.loadBalancerClass: found {written.load_balancer_class!r}"
        refusals.append(_unsupported(f"{found}, wanted {CLASS_PREFIX} and the name of a DirectorGroup behind it"))
    spec = VirtualServiceSpec(
        director_group=group,
        ports=tuple(_ports(written, refusals)),
        backends=Backends(service=ServiceReference(service.metadata.name)),
        addresses=_addresses(written, values, refusals),
        address_count=values.get("address-count", 1),
        forwarding=values.get("forwarding", Forwarding.NAT),
        nat=NatSpec(values.get("return-path", ReturnPath.MASQUERADE)),
        tunnel=TunnelSpec(values.get("tunnel-type", TunnelType.IPIP), values.get("tunnel-port", 0)),
        scheduler=values.get("scheduler", Scheduler.WLC),
        scheduler_flags=values.get("scheduler-flags"),
        persistence=_persistence(written, values, refusals),
        one_packet=values.get("one-packet", False),
        allowed_sources=_sources(written, refusals),
        health_check=HealthCheck(values.get("health-check", HealthCheckType.TCP)),
        drain=Drain(values.get("drain-timeout-seconds", Drain().timeout_seconds)),
    )
    if not refusals:
        refusals += _contradictions(service, spec)
    return Asked(None, tuple(refusals)) if refusals else Asked(spec, notes=tuple(_notes(written, spec)))


def _unsupported(words: str) -> Finding:
    return Finding(Reason.SERVICE_UNSUPPORTED, words)


def _is_name(text: str) -> bool:
    """It can be a DirectorGroup's."""
    return 0 < len(text) <= 253 and _NAME.match(text) is not None


def _ports(written: ServiceSpec, refusals: list[Finding]) -> Iterator[Port]:
    if not 1 <= len(written.ports) <= PORTS:
        refusals.append(_unsupported(f"spec.ports: found {len(written.ports)}, wanted 1 to {PORTS}"))
        return
    for index, port in enumerate(written.ports):
        if port.protocol in set(Protocol):
            yield _port(port)
        else:
            refusals.append(
                _unsupported(f"spec.ports[{index}].protocol: found {port.protocol!r}, wanted TCP, UDP or SCTP")
            )


def _port(port: CoreServicePort) -> Port:
    """A Service's only port may have no name; then it is found by its number."""
    name = port.name or f"{port.protocol.lower()}-{port.port}"
    return Port(name, port.port, Protocol(port.protocol), service_port=port.name or UNSET)


def _addresses(written: ServiceSpec, values: Mapping[str, Any], refusals: list[Finding]) -> tuple[str, ...]:
    found: tuple[Address, ...] = values.get("addresses", ())
    named = written.load_balancer_ip.strip()
    address = parse_address(named) if named else ""
    if isinstance(address, Address):
        found = (address, *found)
    elif named:
        words = f"spec.loadBalancerIP: found {named!r} ({address})"
        refusals.append(_unsupported(f"{words}, wanted a unicast IPv4 or IPv6 address"))
    return tuple(dict.fromkeys(each.text for each in found))


def _persistence(written: ServiceSpec, values: Mapping[str, Any], refusals: list[Finding]) -> Persistence | None:
    """Where the Service or the annotation for its timeout says so. The annotation speaks for load balancing alone; the
    Service's field is for kube-proxy, too."""
    seconds = values.get("persistence-timeout-seconds")
    if seconds is None and written.session_affinity == "ClientIP":
        affinity = written.session_affinity_config
        client = affinity.client_ip if affinity is not None else None
        seconds = (client.timeout_seconds if client is not None else None) or CLIENT_IP_SECONDS
    lengths = {name: values[name] for name in _LENGTHS if name in values}
    if seconds is not None:
        return Persistence(seconds, *(lengths.get(name, longest) for name, longest in _LENGTHS.items()))
    for name, length in lengths.items():
        words = f"found {length} without persistence, wanted spec.sessionAffinity: ClientIP"
        refusals.append(annotations.wrong(name, f"{words} or {CLASS_PREFIX}persistence-timeout-seconds beside it"))
    return None


def _sources(written: ServiceSpec, refusals: list[Finding]) -> tuple[str, ...]:
    """Canonical and sorted; the API server lets spaces around them pass, and host bits in older objects."""
    found = set()
    for index, text in enumerate(written.load_balancer_source_ranges):
        try:
            found.add(ip_network(text.strip(), strict=False))
        except ValueError:
            words = f"spec.loadBalancerSourceRanges[{index}]: found {text!r}"
            refusals.append(_unsupported(f"{words}, wanted a CIDR such as 203.0.113.0/24"))
    if len(found) > SOURCES:
        refusals.append(
            _unsupported(f"spec.loadBalancerSourceRanges: found {len(found)}, wanted at most {SOURCES} different ones")
        )
    return tuple(str(each) for each in sorted(found, key=lambda each: (each.version, each)))


def _contradictions(service: Service, spec: VirtualServiceSpec) -> Iterator[Finding]:
    """What cannot be together, as of any VirtualService, in the Service's words."""
    meta = ObjectMeta(service.metadata.name, service.metadata.namespace)
    for finding in take_in(VirtualService(meta, spec)).findings:
        field, _, words = finding.message.partition(":")
        names = [name for name, kind in annotations.KNOWN.items() if field.partition("[")[0] == kind.field]
        of_annotations = finding.reason in _OF_ANNOTATIONS
        if names and (of_annotations or CLASS_PREFIX + names[0] in service.metadata.annotations):
            yield annotations.wrong(names[0], words.strip())
        elif of_annotations:
            yield Finding(Reason.ANNOTATION_INVALID, f"metadata.annotations: {finding.message}")
        else:
            yield _unsupported(finding.message)


def _notes(written: ServiceSpec, spec: VirtualServiceSpec) -> Iterator[Finding]:
    masquerades = spec.forwarding is Forwarding.NAT and spec.nat.return_path is ReturnPath.MASQUERADE
    if written.external_traffic_policy == "Local" and masquerades:
        yield Finding(
            Reason.CLIENT_ADDRESS_LOST,
            "spec.externalTrafficPolicy: Local asks for the client's address, but with forwarding NAT and return path "
            f"Masquerade real servers see a director's; {CLASS_PREFIX}forwarding DR or TUN, or {CLASS_PREFIX}"
            "return-path Gateway, keeps it.",
        )
