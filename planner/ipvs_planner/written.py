"""A VirtualService as it is written: parsed once, and everything that can be refused from the object alone.

What groups, nodes and other virtual services have to say comes when it is compiled.
"""

from collections.abc import Iterator

from msgspec import UNSET

from ipvs_api.plan import PLAN_SERVERS
from ipvs_api.virtualservice import (
    Forwarding,
    HealthCheckType,
    Persistence,
    Port,
    Protocol,
    Scheduler,
    SchedulerFlag,
    StaticBackend,
    TunnelType,
    VirtualService,
    VirtualServiceSpec,
)
from ipvs_planner.intake import Intake, Server, ServicePort
from ipvs_planner.nodes import parse_prefix
from ipvs_planner.packed import FAMILIES, V4, V6, Address, Packed, parse_address
from ipvs_planner.reasons import Finding, Reason

HASHING = (Scheduler.SH, Scheduler.MH)


def take_in(service: VirtualService) -> Intake:
    meta, spec = service.metadata, service.spec
    findings: list[Finding] = []
    vips = list(_vips(spec, findings))
    ports = list(_ports(spec.ports, findings))
    servers = list(_servers(spec, findings))
    sources = list(_sources(spec.allowed_sources, findings))
    findings += _families(spec, vips, servers)
    findings += _out_of_place(spec)
    findings += _forwarding(spec)
    findings += _scheduling(spec)
    findings += _health(spec)
    return Intake(
        uid=meta.uid,
        generation=meta.generation,
        created=meta.creation_timestamp,
        group=spec.director_group,
        findings=tuple(findings),
        vips=tuple(vips),
        ports=tuple(_port(port) for port in ports),
        servers=tuple(sorted(servers, key=lambda server: (len(server.packed), server.packed))),
        forwarding=spec.forwarding,
        return_path=spec.nat.return_path,
        tunnel=(spec.tunnel.type, spec.tunnel.port),
        scheduler=spec.scheduler,
        scheduler_flags=_flags(spec),
        persistence=_persistence(spec.persistence),
        one_packet=spec.one_packet,
        sources=tuple(sorted(set(sources))),
        drain_timeout_seconds=spec.drain.timeout_seconds,
        checks_health=spec.health_check.type is not HealthCheckType.NONE,
        has_fallback=spec.fallback is not None,
        address_count=spec.address_count,
        service=spec.backends.service.name if spec.backends.service is not None else "",
    )


def _port(port: Port) -> ServicePort:
    service = port.port if port.service_port is UNSET else port.service_port
    return ServicePort(port.name, port.protocol, port.port, port.target_port or port.port, service)


def _persistence(wanted: Persistence | None) -> tuple[int, int, int] | None:
    if wanted is None:
        return None
    return wanted.timeout_seconds, wanted.ipv4_prefix_length, wanted.ipv6_prefix_length


def _malformed(field: str, found: str, why: str, wanted: str = "a unicast IPv4 or IPv6 address") -> Finding:
    return Finding(Reason.MALFORMED_ADDRESS, f"{field}: found {found!r} ({why}), wanted {wanted}")


def _vips(spec: VirtualServiceSpec, findings: list[Finding]) -> Iterator[Address]:
    seen: dict[int, str] = {}
    for index, text in enumerate(spec.addresses):
        address = parse_address(text)
        if isinstance(address, str):
            findings.append(_malformed(f"spec.addresses[{index}]", text, address))
            continue
        family = len(address.packed)
        if family in seen:
            findings.append(
                Finding(
                    Reason.ONE_ADDRESS_PER_FAMILY,
                    f"spec.addresses[{index}]: found {address.text} beside {seen[family]}, "
                    f"wanted at most one {FAMILIES[family]} address",
                )
            )
            continue
        seen[family] = address.text
        yield address


def _ports(ports: tuple[Port, ...], findings: list[Finding]) -> Iterator[Port]:
    """Ports that can be packed: numbers in bounds, no name and no protocol and port twice."""
    names: set[str] = set()
    numbers: set[tuple[Protocol, int]] = set()
    if not ports:
        findings.append(Finding(Reason.INVALID_VALUE, "spec.ports: found none, wanted at least one"))
    for index, port in enumerate(ports):
        field = f"spec.ports[{index}]"
        if not 1 <= port.port <= 65535 or not 0 <= port.target_port <= 65535:
            findings.append(
                Finding(
                    Reason.INVALID_VALUE,
                    f"{field}: found port {port.port}, targetPort {port.target_port}; wanted 1 to 65535",
                )
            )
        elif port.name in names:
            findings.append(Finding(Reason.DUPLICATE_PORT, f"{field}.name: found {port.name!r} a second time"))
        elif (port.protocol, port.port) in numbers:
            findings.append(
                Finding(Reason.DUPLICATE_PORT, f"{field}: found {port.protocol} port {port.port} a second time")
            )
        else:
            names.add(port.name)
            numbers.add((port.protocol, port.port))
            yield port


def _servers(spec: VirtualServiceSpec, findings: list[Finding]) -> Iterator[Server]:
    static, service = spec.backends.static, spec.backends.service
    if (static is None) == (service is None):
        found = "neither" if static is None else "both"
        findings.append(
            Finding(Reason.EXACTLY_ONE_BACKEND_KIND, f"spec.backends: found {found} of service and static, wanted one")
        )
    elif service is None and not static:
        findings.append(Finding(Reason.INVALID_VALUE, "spec.backends.static: found none, wanted at least one"))
    if static is not None and len(static) > PLAN_SERVERS:
        findings.append(
            Finding(
                Reason.TOO_MANY_SERVERS,
                f"spec.backends.static: found {len(static)} real servers, wanted at most {PLAN_SERVERS}; "
                "spread them over several VirtualServices",
            )
        )
        return
    places: dict[Packed, int] = {}
    for index, backend in enumerate(static or ()):
        server = _server(index, backend, findings)
        if server is None:
            continue
        if server.packed in places:
            findings.append(
                Finding(
                    Reason.DUPLICATE_BACKEND,
                    f"spec.backends.static[{index}].address: found {server.text}, "
                    f"which spec.backends.static[{places[server.packed]}] has already",
                )
            )
            continue
        places[server.packed] = index
        yield server


def _server(index: int, backend: StaticBackend, findings: list[Finding]) -> Server | None:
    field = f"spec.backends.static[{index}]"
    address = parse_address(backend.address)
    if isinstance(address, str):
        findings.append(_malformed(f"{field}.address", backend.address, address))
        return None
    if backend.resume_connections > backend.max_connections:
        findings.append(
            Finding(
                Reason.CONNECTION_THRESHOLDS,
                f"{field}.resumeConnections: found {backend.resume_connections}, "
                f"wanted at most maxConnections ({backend.max_connections})",
            )
        )
    return Server(
        address.packed, address.text, backend.weight, backend.max_connections, backend.resume_connections, index
    )


def _sources(prefixes: tuple[str, ...], findings: list[Finding]) -> Iterator[str]:
    for index, text in enumerate(prefixes):
        prefix = parse_prefix(text)
        if prefix is None:
            findings.append(
                _malformed(
                    f"spec.allowedSources[{index}]",
                    text,
                    "not a network",
                    "a CIDR without host bits, such as 203.0.113.0/24",
                )
            )
        else:
            yield prefix.text


def _families(spec: VirtualServiceSpec, vips: list[Address], servers: list[Server]) -> Iterator[Finding]:
    """Real servers serve the VIPs of their own family: IPVS translates between families only inside tunnels."""
    addresses = {vip.packed for vip in vips}
    for server in servers:
        if server.packed in addresses:
            yield Finding(
                Reason.BACKEND_IS_ADDRESS,
                f"spec.backends.static[{server.position}].address: found {server.text}, "
                "the virtual service's own address; wanted a real server's",
            )
    if not vips or not servers or len(vips) < len(spec.addresses):
        return
    for family, other in ((V4, V6), (V6, V4)):
        vip = next((vip for vip in vips if len(vip.packed) == family), None)
        own = [server for server in servers if len(server.packed) == family]
        if vip is not None and not own:
            yield Finding(
                Reason.MIXED_FAMILIES,
                f"spec.addresses: found {vip.text}, but no real server under spec.backends.static has an "
                f"{FAMILIES[family]} address to serve it",
            )
        elif vip is None and own:
            yield Finding(
                Reason.MIXED_FAMILIES,
                f"spec.backends.static[{own[0].position}].address: found {own[0].text}, but spec.addresses has only "
                f"{FAMILIES[other]}; real servers serve addresses of their own family",
            )


def _out_of_place(spec: VirtualServiceSpec) -> Iterator[Finding]:
    """Fields that mean nothing beside others."""
    if spec.address_count != 1 and spec.addresses:
        yield Finding(
            Reason.INVALID_VALUE,
            f"spec.addressCount: found {spec.address_count} beside spec.addresses; it counts allocated addresses",
        )
    for index, port in enumerate(spec.ports):
        if spec.backends.static is not None and port.service_port is not UNSET:
            yield Finding(
                Reason.INVALID_VALUE,
                f"spec.ports[{index}].servicePort: found {port.service_port} with backends.static, wanted targetPort",
            )
        if spec.backends.service is not None and port.target_port:
            yield Finding(
                Reason.INVALID_VALUE,
                f"spec.ports[{index}].targetPort: found {port.target_port} with backends.service, wanted servicePort",
            )


def _health(spec: VirtualServiceSpec) -> Iterator[Finding]:
    check, fallback = spec.health_check, spec.fallback
    if check.timeout_seconds > check.interval_seconds:
        yield Finding(
            Reason.HEALTH_CHECK_TIMES,
            f"spec.healthCheck.timeoutSeconds: found {check.timeout_seconds}, "
            f"wanted at most intervalSeconds ({check.interval_seconds})",
        )
    address = parse_address(fallback.address) if fallback is not None else None
    if fallback is not None and isinstance(address, str):
        yield _malformed("spec.fallback.address", fallback.address, address)


def _forwarding(spec: VirtualServiceSpec) -> Iterator[Finding]:
    tunnel = spec.tunnel
    if tunnel.type is TunnelType.GUE and not 1 <= tunnel.port <= 65535:
        yield Finding(
            Reason.TUNNEL_PORT, f"spec.tunnel.port: found {tunnel.port}, GUE needs a UDP port; the usual one is 6080"
        )
    if tunnel.type is not TunnelType.GUE and tunnel.port:
        yield Finding(Reason.TUNNEL_PORT, f"spec.tunnel.port: found {tunnel.port}, {tunnel.type} has no port; wanted 0")
    if not spec.one_packet:
        return
    if spec.forwarding is Forwarding.NAT:
        yield Finding(
            Reason.ONE_PACKET_FORWARDING,
            "spec.onePacket: found true with forwarding NAT, where answers would come from the real server's address; "
            "wanted DR or TUN, or onePacket: false",
        )
    for index, port in enumerate(spec.ports):
        if port.protocol is not Protocol.UDP:
            yield Finding(
                Reason.ONE_PACKET_PROTOCOL,
                f"spec.ports[{index}].protocol: found {port.protocol} with onePacket, which is for UDP",
            )


def _scheduling(spec: VirtualServiceSpec) -> Iterator[Finding]:
    flags = spec.scheduler_flags or ()
    if flags and spec.scheduler not in HASHING:
        yield Finding(
            Reason.SCHEDULER_FLAGS,
            f"spec.schedulerFlags: found {', '.join(flags)} with scheduler {spec.scheduler}; only sh and mh have flags",
        )
    if len(set(flags)) < len(flags):
        yield Finding(Reason.SCHEDULER_FLAGS, f"spec.schedulerFlags: found {', '.join(flags)}, wanted each once")


def _flags(spec: VirtualServiceSpec) -> tuple[SchedulerFlag, ...]:
    """What was asked for; unsaid, sh and mh go on to another server when the hashed one takes no connections."""
    if spec.scheduler_flags is not None:
        return tuple(sorted(set(spec.scheduler_flags)))
    return (SchedulerFlag.FALLBACK,) if spec.scheduler in HASHING else ()
