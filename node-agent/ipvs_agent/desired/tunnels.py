"""Tunnels that a real server needs to take TUN traffic: one link for each director, with exact outer addresses.

Exact because the kernel delivers an encapsulated packet to the most specific link (``ip_tunnel_lookup``,
net/ipv4/ip_tunnel.c): a stranger's packets find none of ours, and a CNI's any-to-any tunnel on the same host goes on
working for everybody else.
"""

import hashlib

from ipvs_agent.desired.share import of_version, version_of
from ipvs_agent.rows import TUNNEL_PREFIX, LinkRow
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
    port = plan.tunnel.port if plan.tunnel.type is TunnelType.GUE else 0
    rows = [
        LinkRow(kind, local, address, port)
        for director in others
        for address in of_version(director.addresses, version)
    ]
    return {link_name(row): row for row in rows}
