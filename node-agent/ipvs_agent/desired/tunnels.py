"""Tunnels that a real server needs to take TUN traffic: one link for each director, with exact outer addresses.

A link is for IPIP and GUE alike, since the kernel allows one for two outer addresses: a GUE port hands over to it.
Exact because the kernel delivers an encapsulated packet to the most specific link (``ip_tunnel_lookup``,
net/ipv4/ip_tunnel.c): a stranger's packets find none of ours, and a CNI's any-to-any tunnel on the same host goes on
working for everybody else.
"""

import hashlib

from ipvs_agent.desired.share import Context, Share, of_version, version_of
from ipvs_agent.rows import TUNNEL_PREFIX, AddressKey, AddressRow, FouKey, FouRow, LinkRow, NftKey, NftRow, SysctlRow
from ipvs_api.plan import PlanDirector, VirtualServicePlanSpec
from ipvs_api.virtualservice import TunnelType

_KINDS = {
    (TunnelType.IPIP, 4): "ipip",
    (TunnelType.IPIP, 6): "ip6tnl",
    (TunnelType.GUE, 4): "ipip",
    (TunnelType.GUE, 6): "ip6tnl",
    (TunnelType.GRE, 4): "gre",
    (TunnelType.GRE, 6): "ip6gre",
}

_HEADERS = {TunnelType.IPIP: 0, TunnelType.GUE: 8 + 4, TunnelType.GRE: 4}
"""Bytes between the outer and the inner IP header: none; UDP and GUE's base header; GRE's base header."""


def overhead(tunnel: TunnelType, version: int) -> int:
    """Bytes that the director puts before a packet, the outer IP header included."""
    return (20 if version == 4 else 40) + _HEADERS[tunnel]


def encapsulated_mss(tunnel: TunnelType, version: int, mtu: int) -> int:
    """The largest TCP segment, in bytes, a client may send so that it fits into ``mtu`` once encapsulated."""
    return mtu - overhead(tunnel, version) - (20 if version == 4 else 40) - 20


def link_name(row: LinkRow) -> str:
    """Our prefix and eight hexadecimal digits of what the link is: two different links never share a name."""
    return TUNNEL_PREFIX + hashlib.blake2s(repr(row).encode(), digest_size=4).hexdigest()


def tunnel_links(plan: VirtualServicePlanSpec, local: str, others: list[PlanDirector]) -> dict[str, LinkRow]:
    """By name, the links over which each director's packets reach ``local``."""
    version = version_of(local)
    kind = _KINDS[plan.tunnel.type, version]
    rows = [LinkRow(kind, local, address) for director in others for address in of_version(director.addresses, version)]
    return {link_name(row): row for row in rows}


def open_tunnels(
    plan: VirtualServicePlanSpec,
    local: str,
    others: list[PlanDirector],
    context: Context,
    share: Share,
) -> tuple[str, ...]:
    """Tunnel links from each director to ``local``, which only VIPs of ours may come out of. Their names, sorted."""
    version, state = version_of(local), share.server
    links = tunnel_links(plan, local, others)
    for name, row in links.items():
        state.links[name] = row
        state.elements[NftKey("tunnel_links", (name,))] = NftRow()
        if version == 4:
            # The clients' route back is not through the tunnel: strict reverse path filtering would drop everything,
            # and the loose one does so on a link without any address (``__fib_validate_source``,
            # net/ipv4/fib_frontend.c).
            state.sysctls[f"net/ipv4/conf/{name}/rp_filter"] = SysctlRow(2)
            state.addresses[AddressKey(name, local)] = AddressRow()
    if plan.tunnel.type is TunnelType.GUE:
        state.fou[FouKey(version, plan.tunnel.port)] = FouRow()
        state.elements[NftKey("gue_ports", (plan.tunnel.port,))] = NftRow()
        for director in others:
            for address in of_version(director.addresses, version):
                state.elements[NftKey(f"gue_sources{version}", (address, plan.tunnel.port))] = NftRow()
    mss = encapsulated_mss(plan.tunnel.type, version, _mtu_to(local, others, version, context))
    for entry in plan.addresses:
        if version_of(entry.address) == version:
            state.elements[NftKey(f"tunnel_vips{version}", (entry.address,))] = NftRow()
            state.elements[NftKey(f"mss{version}", (entry.address,))] = NftRow((mss,))
    return tuple(sorted(links))


def _mtu_to(local: str, others: list[PlanDirector], version: int, context: Context) -> int:
    """The smallest MTU on the way to a director, as far as this host knows it."""
    mtus = []
    for director in others:
        for address in of_version(director.addresses, version):
            route = context.host.routes.lookup(address)
            link = context.host.interfaces.get(route.interface) if route is not None else None
            if route is not None and link is not None:
                mtus.append(route.mtu or link.mtu)
    return min(mtus, default=1500)
