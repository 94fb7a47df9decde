"""The real server's share of a plan: silence for the VIP, tunnels, the second hop, the way back.

Nothing under NAT with Masquerade; the way back under NAT with Gateway; the VIP on ``ipvs0`` under DR and TUN to a host;
nftables' second hop under DR and TUN to what is behind (or on) a node, and no VIP there at all.
"""

from ipvs_agent.desired.director import silent_vip
from ipvs_agent.desired.share import Context, Finding, Reason, Share, by_node, is_director, of_version, version_of
from ipvs_agent.desired.switches import forwarding
from ipvs_agent.desired.tunnels import open_tunnels
from ipvs_agent.facts import Route
from ipvs_agent.rows import (
    RETURN_MARK_MASK,
    RETURN_MARK_SHIFT,
    ROUTE_TABLE_BASE,
    RULE_PRIORITY,
    VIP_LINK,
    HopKey,
    HopRow,
    HopTarget,
    LinkRow,
    NftKey,
    NftRow,
    RouteKey,
    RouteRow,
    RuleKey,
    RuleRow,
    SysctlRow,
)
from ipvs_api.plan import PlanBackend, PlanDirector, ServerRole, VirtualServicePlanSpec
from ipvs_api.virtualservice import Forwarding, ReturnPath, Scheduler

STICKY_SCHEDULERS = frozenset({Scheduler.SH, Scheduler.MH, Scheduler.DH, Scheduler.LBLC, Scheduler.LBLCR})


def serve(plan: VirtualServicePlanSpec, context: Context, share: Share) -> None:
    """Add what this host, a real server of the plan (or the node of some), must have in its kernel."""
    others = [director for director in plan.directors if director.node != context.node]
    for backend in by_node(plan):
        if backend.node != context.node or backend.role is ServerRole.MACHINE:
            continue
        if plan.forwarding is Forwarding.NAT:
            if plan.return_path is ReturnPath.GATEWAY and not is_director(plan, context.node):
                _way_back(plan, backend, others, context, share)
        elif backend.role is ServerRole.HOST:
            _host(plan, backend, others, context, share)
        else:
            _second_hop(plan, backend, others, context, share)


def director_macs(
    others: list[PlanDirector], version: int, context: Context, share: Share
) -> tuple[tuple[str, ...], set[str]]:
    """MACs that packets from the directors bear, and the interfaces they arrive on.

    Reported MACs come with the plan; otherwise the directors' addresses are resolved on this host, and those that are
    not on one of its networks are told: DR and the way back need a common network (L2).
    """
    macs: set[str] = set()
    links: set[str] = set()
    for director in others:
        macs.update(director.macs)
        found = bool(director.macs)
        near = []
        for address in of_version(director.addresses, version):
            route = context.host.routes.lookup(address)
            if route is None or route.gateway:
                continue
            near.append(address)
            links.add(route.interface)
            if director.macs:
                continue
            share.neighbours.add(address)
            neighbour = context.host.neighbours.get(address)
            if neighbour is not None and neighbour.mac:
                macs.add(neighbour.mac)
                found = True
        if not near:
            share.findings.append(_director_not_on_link(director, version))
        elif not found:
            share.findings.append(
                Finding(
                    Reason.DIRECTOR_UNKNOWN,
                    f"director {director.node} ({', '.join(near)}) does not answer "
                    f"{'ARP' if version == 4 else 'neighbour solicitations'} from this host; its traffic is not "
                    "accepted until it does: check that it is up and on this network",
                )
            )
    return tuple(sorted(macs)), links


def _director_not_on_link(director: PlanDirector, version: int) -> Finding:
    found = ", ".join(of_version(director.addresses, version)) or f"no IPv{version} address"
    return Finding(
        Reason.DIRECTOR_NOT_ON_LINK,
        f"director {director.node} ({found}) is not on a network of this host, which direct routing and NAT with "
        "returnPath Gateway need; use TUN, or NAT with Masquerade, or add the director's address on the common "
        "network to its Node",
    )


def _host(
    plan: VirtualServicePlanSpec,
    backend: PlanBackend,
    others: list[PlanDirector],
    context: Context,
    share: Share,
) -> None:
    """A host that owns the VIP, silently, and answers the clients itself."""
    state = share.server
    versions = {version_of(server.address) for server in backend.servers}
    for entry in plan.addresses:
        version = version_of(entry.address)
        if version in versions:
            silent_vip(entry.address, context, state.addresses, state.elements)
            state.links[VIP_LINK] = LinkRow("dummy")
    for version in sorted(versions):
        if plan.forwarding is Forwarding.DR:
            _, links = director_macs(others, version, context, share)
            loosen_rp_filter(links, version, context, share)
            _not_through_director(others, version, context, share)
            continue
        for server in backend.servers:
            if version_of(server.address) == version:
                open_tunnels(plan, server.address, others, context, share)


def _not_through_director(others: list[PlanDirector], version: int, context: Context, share: Share) -> None:
    """Under DR the answers bear the VIP as source: the director that owns it drops them as its own (martian)."""
    gateway = context.host.default_gateway(version)
    for director in others:
        if gateway and gateway in director.addresses:
            share.findings.append(
                Finding(
                    Reason.GATEWAY_IS_DIRECTOR,
                    f"this real server's default gateway {gateway} is director {director.node}, which drops the "
                    "answers of direct routing as martians while it holds the VIP; set the default gateway to the "
                    "clients' router, or use forwarding NAT",
                )
            )


def _second_hop(
    plan: VirtualServicePlanSpec,
    backend: PlanBackend,
    others: list[PlanDirector],
    context: Context,
    share: Share,
) -> None:
    """Rewrite VIP:port to a real server on or behind this node, where it comes from another director.

    Also where it comes from this node or from what is behind it: a director would send some of it back here, as flows
    that connection tracking knows already.
    """
    directs = is_director(plan, context.node)
    sticky = plan.persistence is not None or plan.scheduler in STICKY_SCHEDULERS
    for version in (4, 6):
        vips = of_version(tuple(entry.address for entry in plan.addresses), version)
        servers = [server for server in backend.servers if version_of(server.address) == version]
        if not vips or not servers:
            continue
        macs: tuple[str, ...] = ()
        links: tuple[str, ...] = ()
        arrivals: set[str] = set()
        if plan.forwarding is Forwarding.DR:
            macs, arrivals = director_macs(others, version, context, share)
            loosen_rp_filter(arrivals, version, context, share)
        elif others:
            own = of_version(backend.addresses, version)
            links = open_tunnels(plan, own[0], others, context, share) if own else ()
            arrivals = set(links)
        _forward([server.address for server in servers], arrivals, version, context, share)
        for vip in vips:
            for index, port in enumerate(plan.ports):
                key = HopKey(version, vip, port.protocol.lower(), port.port)
                able = [server for server in servers if server.ports[index]]
                taking = tuple(sorted(HopTarget(s.address, s.ports[index], s.weight) for s in able if s.weight))
                if taking and (macs or links or directs):
                    share.server.hops[key] = HopRow(taking, sticky, macs, links)
                elif able and (macs or links) and not directs:
                    # Until the directors know that all of them end, some connections are still sent here.
                    ending = tuple(sorted(HopTarget(server.address, server.ports[index], 1) for server in able))
                    share.server.hops[key] = HopRow(ending, sticky, macs, links, directed_only=True)
        for server in servers:
            share.server.elements[NftKey(f"hop_targets{version}", (server.address,))] = NftRow()
        for prefix in of_version(context.behind, version):
            share.server.elements[NftKey(f"hop_clients{version}", (prefix,))] = NftRow()


def _forward(servers: list[str], arrivals: set[str], version: int, context: Context, share: Share) -> None:
    """Forwarding between where the directors' packets arrive and the real servers behind this node, both ways."""
    behind = {
        route.interface
        for address in servers
        if address not in context.host.own_addresses and (route := context.host.routes.lookup(address)) is not None
    }
    if behind:
        share.server.sysctls |= forwarding(behind | arrivals, version, context)


def loosen_rp_filter(links: set[str], version: int, context: Context, share: Share) -> None:
    """A dual-homed real server with strict reverse path filtering drops clients whose way back is another interface.

    Effective is the maximum of ``all`` and the link; 2 on the one link wins over a strict ``all`` (IPv4 only).
    """
    if version == 6:
        return
    for link in sorted(links - {context.host.default_interface(4)}):
        found = [context.host.sysctls.get(f"net/ipv4/conf/{name}/rp_filter", 0) for name in ("all", link)]
        if max(found) == 1:
            share.server.sysctls[f"net/ipv4/conf/{link}/rp_filter"] = SysctlRow(2)


def _way_back(
    plan: VirtualServicePlanSpec,
    backend: PlanBackend,
    others: list[PlanDirector],
    context: Context,
    share: Share,
) -> None:
    """Classic LVS-NAT: replies of flows that came from a director go back to its gateway address.

    Also to clients on the real server's own network; not for clients who talk to the real server directly, since only
    flows that bear a director's MAC are marked.
    """
    for version in (4, 6):
        servers = [server for server in backend.servers if version_of(server.address) == version]
        gateways = of_version(plan.gateways, version)
        if not servers or not gateways:
            continue
        gateway = gateways[0]
        route = context.host.routes.lookup(gateway)
        if route is None or route.gateway:
            share.findings.append(_gateway_off_link(gateway, route, servers[0].address))
            continue
        path = context.paths.get((version, gateway))
        if path is None:
            share.findings.append(
                Finding(
                    Reason.TOO_MANY_GATEWAYS,
                    f"gateway {gateway}: this host already has return paths to seven other gateways; "
                    "spread the real servers over more hosts or share gateways",
                )
            )
            continue
        macs, links = director_macs(others, version, context, share)
        loosen_rp_filter(links, version, context, share)
        for server in servers:
            for index, port in enumerate(plan.ports):
                for mac in macs if server.ports[index] else ():
                    flow = (mac, server.address, port.protocol.lower(), server.ports[index])
                    share.server.elements[NftKey(f"return{version}", flow)] = NftRow((path,))
        table = ROUTE_TABLE_BASE + path
        share.server.routes[RouteKey(version, table, "default")] = RouteRow(gateway, route.interface)
        mark = RuleKey(version, RULE_PRIORITY + path, path << RETURN_MARK_SHIFT, RETURN_MARK_MASK)
        share.server.rules[mark] = RuleRow(table)


def _gateway_off_link(gateway: str, route: Route | None, address: str) -> Finding:
    found = f"the route to it leads through {route.gateway}" if route is not None else "there is no route to it"
    return Finding(
        Reason.GATEWAY_NOT_ON_LINK,
        f"gateway {gateway}: {found}, but NAT with returnPath Gateway needs the director on the real servers' network; "
        "use returnPath Masquerade or a gateway address on this host's network",
        real_server=address,
    )
