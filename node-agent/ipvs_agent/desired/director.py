"""The director's share of a plan: IPVS services, the port guard, the VIPs and what NAT needs of the host.

Rows only; which table they are written to first is the loop's. Forwarding methods are per destination, so a director
that also serves has its own real servers as NAT destinations beside DR or TUN ones.
"""

from msgspec.structs import replace

from ipvs_agent.desired.reach import reachable
from ipvs_agent.desired.share import (
    Context,
    Finding,
    Reason,
    Severity,
    Share,
    by_node,
    of_version,
    prefix_version,
    version_of,
)
from ipvs_agent.desired.switches import raise_switches
from ipvs_agent.rows import (
    ROUTE_TABLE_BASE,
    RULE_PRIORITY,
    VIP_LINK,
    AddressKey,
    AddressRow,
    LinkRow,
    NftKey,
    NftRow,
    RouteKey,
    RouteRow,
    RuleKey,
    RuleRow,
    SysctlRow,
)
from ipvs_agent.services import (
    FLAG_FALLBACK,
    FLAG_ONE_PACKET,
    FLAG_PERSISTENT,
    FLAG_PORT,
    FWD_DIRECT,
    FWD_NAT,
    FWD_TUNNEL,
    TUNNEL_GRE,
    TUNNEL_GUE,
    TUNNEL_IPIP,
    Destination,
    Head,
    pack_destination,
    pack_key,
    pack_row,
)
from ipvs_api.node import NodeGroup
from ipvs_api.plan import PlanBackend, PlanPort, PlanServer, ServerRole, VirtualServicePlanSpec
from ipvs_api.virtualservice import Forwarding, ReturnPath, SchedulerFlag, TunnelType

_LARGEST = 2**31 - 1
"""Of a threshold: the kernel keeps it in an int."""

_FLAGS = {SchedulerFlag.FALLBACK: FLAG_FALLBACK, SchedulerFlag.PORT: FLAG_PORT}
_TUNNELS = {TunnelType.IPIP: TUNNEL_IPIP, TunnelType.GUE: TUNNEL_GUE, TunnelType.GRE: TUNNEL_GRE}


def client_interface(group: NodeGroup, context: Context, vip: str) -> str:
    """The client-facing interface: the group's, else the default route's, else the one on the VIP's own network."""
    if group.interface:
        return group.interface
    interface = context.host.default_interface(version_of(vip))
    if interface:
        return interface
    route = context.host.routes.lookup(vip)
    return route.interface if route is not None and not route.gateway else ""


def direct(plan: VirtualServicePlanSpec, group: NodeGroup, context: Context, share: Share) -> None:
    """Add what this host, a director of the plan, must have in its kernel.

    The host itself is made ready for all real servers, also for those that it does not direct to yet or any more.
    Addresses and ports that real servers are still being made ready for are as if they were not there.
    """
    backends = by_node(plan)
    reached = _reached(plan, [backend for backend in backends if backend.directed], context, share)
    _next_hops(plan, reached, context, share)
    for entry in (address for address in plan.addresses if address.directed):
        vip, version = entry.address, version_of(entry.address)
        interface = client_interface(group, context, vip)
        if interface not in context.host.interfaces:
            share.findings.append(_no_interface(group, interface, vip))
            continue
        for index, port in ((index, port) for index, port in enumerate(plan.ports) if port.directed):
            destinations = _destinations(plan, reached, context, version, index, port)
            share.director.ipvs[pack_key(port.protocol, vip, port.port)] = pack_row(
                _head(plan, version), list(destinations.values())
            )
            _guard(plan, vip, port, share)
        _own_servers(plan, backends, vip, context, share)
        _hairpins(plan, backends, version, share)
        share.director.elements[NftKey("client_interfaces", (interface,))] = NftRow()
        share.director.elements[NftKey(f"guarded{version}", (vip,))] = NftRow()
        _place(entry.holder, vip, interface, context, share)
        raise_switches(plan, backends, interface, version, context, share)


def _reached(
    plan: VirtualServicePlanSpec, backends: list[PlanBackend], context: Context, share: Share
) -> list[PlanBackend]:
    """The backends without the real servers (or nodes of a second hop) that this director cannot forward to."""
    if plan.forwarding is Forwarding.NAT:
        return backends
    found = []
    for backend in backends:
        if backend.role is ServerRole.SECOND_HOP:
            if backend.node == context.node:
                found.append(backend)
                continue
            hops = tuple(address for address in backend.addresses if reachable(plan, address, context, share))
            found.append(replace(backend, addresses=hops))
        else:
            servers = tuple(s for s in backend.servers if reachable(plan, s.address, context, share))
            found.append(replace(backend, servers=servers))
    return found


def _head(plan: VirtualServicePlanSpec, version: int) -> Head:
    flags, timeout, netmask = 0, 0, 32 if version == 4 else 128
    if plan.persistence is not None:
        flags |= FLAG_PERSISTENT
        timeout = plan.persistence.timeout_seconds
        netmask = plan.persistence.ipv4_prefix_length if version == 4 else plan.persistence.ipv6_prefix_length
    if plan.one_packet:
        flags |= FLAG_ONE_PACKET
    for flag in plan.scheduler_flags:
        flags |= _FLAGS[flag]
    return Head(plan.scheduler, flags, timeout, netmask)


def _destinations(
    plan: VirtualServicePlanSpec,
    backends: list[PlanBackend],
    context: Context,
    version: int,
    index: int,
    port: PlanPort,
) -> dict[tuple[str, int], bytes]:
    """Packed destinations by address and port; the first of two equal ones stands."""
    found: dict[tuple[str, int], bytes] = {}

    def add(address: str, target: int, forwarding: int, weight: int, upper: int, lower: int) -> None:
        tunnel = (_TUNNELS[plan.tunnel.type], plan.tunnel.port) if forwarding == FWD_TUNNEL else (0, 0)
        destination = Destination(address, target, forwarding, weight, upper, lower, *tunnel)
        found.setdefault((address, target), pack_destination(destination))

    for backend in backends:
        servers = [s for s in backend.servers if s.ports[index] and version_of(s.address) == version]
        if not servers:
            continue
        local = backend.role is ServerRole.SECOND_HOP and backend.node == context.node
        if plan.forwarding is Forwarding.NAT or local:
            for s in servers:
                add(s.address, s.ports[index], FWD_NAT, s.weight, s.max_connections, s.resume_connections)
            continue
        forwarding = FWD_DIRECT if plan.forwarding is Forwarding.DR else FWD_TUNNEL
        if backend.role is not ServerRole.SECOND_HOP:
            for s in servers:
                add(s.address, port.port, forwarding, s.weight, s.max_connections, s.resume_connections)
        elif hop := of_version(backend.addresses, version):
            add(hop[0], port.port, forwarding, sum(s.weight for s in servers), *_thresholds(servers))
    return found


def _thresholds(servers: list[PlanServer]) -> tuple[int, int]:
    """A node's thresholds are its real servers' together; one without a limit has none for all."""
    if any(not server.max_connections for server in servers):
        return 0, 0
    upper, lower = sum(s.max_connections for s in servers), sum(s.resume_connections for s in servers)
    return min(upper, _LARGEST), min(lower, _LARGEST)


def _next_hops(plan: VirtualServicePlanSpec, backends: list[PlanBackend], context: Context, share: Share) -> None:
    """Under DR, a route to each real server with itself as gateway, in a table of ours for what this host sends.

    A destination keeps one cached route for all its connections (``ip_vs_xmit.c``, ``dest_dst``). One that a NAT or
    TUN connection looked up does not know its next hop, and DR packets that find it there go to the neighbour of their
    destination address, the VIP, which nobody answers for: after a change of the forwarding method new connections
    would die as long as old ones live. A route that names its gateway is right for all methods.
    """
    if plan.forwarding is not Forwarding.DR:
        return
    for backend in backends:
        hop = backend.role is ServerRole.SECOND_HOP
        if hop and backend.node == context.node:
            continue
        for address in backend.addresses if hop else [server.address for server in backend.servers]:
            route, version = context.host.routes.lookup(address), version_of(address)
            if route is not None:
                prefix = f"{address}/{32 if version == 4 else 128}"
                share.director.routes[RouteKey(version, ROUTE_TABLE_BASE, prefix)] = RouteRow(address, route.interface)
                share.director.rules[RuleKey(version, RULE_PRIORITY, 0, 0, local=True)] = RuleRow(ROUTE_TABLE_BASE)


def _guard(plan: VirtualServicePlanSpec, vip: str, port: PlanPort, share: Share) -> None:
    """Set elements of one VIP and port: open to clients, restricted to some of them, masqueraded, untracked."""
    version, elements = version_of(vip), share.director.elements
    flow = (vip, port.protocol.lower(), port.port)
    elements[NftKey(f"open{version}", flow)] = NftRow()
    if plan.allowed_sources:
        elements[NftKey(f"restricted{version}", flow)] = NftRow()
        directors = [address for director in plan.directors for address in director.addresses]
        for source in (*plan.allowed_sources, *directors):
            if prefix_version(source) == version:
                elements[NftKey(f"sources{version}", (*flow, source))] = NftRow()
    if plan.forwarding is not Forwarding.NAT:
        elements[NftKey(f"untracked{version}", flow)] = NftRow()
    elif plan.return_path is ReturnPath.MASQUERADE:
        elements[NftKey(f"masquerade{version}", flow)] = NftRow()


def _own_servers(
    plan: VirtualServicePlanSpec, backends: list[PlanBackend], vip: str, context: Context, share: Share
) -> None:
    """A director reaches what is behind itself by NAT, whatever its method to the others is.

    The answers are forwarded, and somebody may drop forwarded packets that connection tracking calls invalid.
    """
    version = version_of(vip)
    if plan.forwarding is Forwarding.NAT or not any(
        version_of(server.address) == version and server.address not in context.host.own_addresses
        for backend in backends
        if backend.node == context.node and backend.role is ServerRole.SECOND_HOP
        for server in backend.servers
    ):
        return
    share.director.sysctls["net/ipv4/vs/conntrack"] = SysctlRow(1, at_least=True)
    for port in plan.ports:
        flow = (vip, port.protocol.lower(), port.port)
        share.director.elements[NftKey(f"tracked{version}", flow)] = NftRow()


def _hairpins(plan: VirtualServicePlanSpec, backends: list[PlanBackend], version: int, share: Share) -> None:
    """Real servers that call the VIP and are chosen themselves: they would drop their own address as a martian."""
    if plan.forwarding is not Forwarding.NAT or plan.return_path is not ReturnPath.GATEWAY:
        return
    for backend in backends:
        for server in backend.servers:
            if version_of(server.address) == version:
                pair = (server.address, server.address)
                share.director.elements[NftKey(f"hairpin{version}", pair)] = NftRow()


def _place(holder: str, vip: str, interface: str, context: Context, share: Share) -> None:
    """The VIP itself: on the holder's client-facing interface; silent on ``ipvs0`` where nobody holds it."""
    if holder == context.node:
        share.director.addresses[AddressKey(interface, vip)] = AddressRow(deprecated=version_of(vip) == 6)
    elif not holder:
        silent_vip(vip, context, share.director.addresses, share.director.elements)
        share.director.links[VIP_LINK] = LinkRow("dummy")


def silent_vip(
    vip: str,
    context: Context,
    addresses: dict[AddressKey, AddressRow],
    elements: dict[NftKey, NftRow],
) -> None:
    """A VIP on ``ipvs0`` that no interface of this host answers for.

    ARP is kept silent by an nftables ``arp`` table, since Linux answers for any local address on any interface
    (``arp_ignore`` 0); NDP answers only for addresses of the receiving interface, so IPv6 needs nothing.
    """
    addresses[AddressKey(VIP_LINK, vip)] = AddressRow(deprecated=version_of(vip) == 6)
    if version_of(vip) == 4:
        elements[NftKey("silent4", (vip,))] = NftRow()
        for link in context.host.interfaces.values():
            own = context.host.own_address(link.name, 4)
            if own and not link.loopback and not link.noarp:
                elements[NftKey("own4", (link.name,))] = NftRow((own,))


def _no_interface(group: NodeGroup, interface: str, vip: str) -> Finding:
    found = f"interface {interface} does not exist" if interface else "there is no default route and no network of it"
    return Finding(
        Reason.INTERFACE_MISSING,
        f"VIP {vip}: {found} on this host; set spec.interface of DirectorGroup {group.name} to the interface that "
        "faces the clients",
        severity=Severity.BLOCK,
    )
