"""Whether a director can reach a real server the way its forwarding method needs, and what to tell if not."""

from ipvs_agent.desired.share import Context, Finding, Reason, Severity, Share, version_of
from ipvs_agent.desired.tunnels import overhead
from ipvs_api.plan import VirtualServicePlanSpec
from ipvs_api.virtualservice import Forwarding

RESOLVED_SERVERS = 512
"""At most this many real servers of one plan have their neighbour entries watched (``neigh/default/gc_thresh3``)."""


def reachable(plan: VirtualServicePlanSpec, address: str, context: Context, share: Share) -> bool:
    """False where forwarding to ``address`` would loop or vanish: the destination is left out, and told.

    DR rewrites only the MAC, so a real server behind a router would get the packet back to the VIP's owner; TUN needs
    any route, with room for the outer header.
    """
    if plan.forwarding is Forwarding.NAT:
        return True
    route = context.host.routes.lookup(address)
    if route is None:
        share.findings.append(
            Finding(
                Reason.REAL_SERVER_UNREACHABLE,
                f"real server {address}: this director has no route to it; it gets no traffic. Add a route, or correct "
                "the address",
                address,
            )
        )
        return False
    if plan.forwarding is Forwarding.TUN:
        _path_mtu(plan, address, route.mtu, route.interface, context, share)
        return True
    if route.gateway:
        share.findings.append(
            Finding(
                Reason.REAL_SERVER_NOT_ON_LINK,
                f"real server {address}: reached through router {route.gateway} on {route.interface}, but direct "
                "routing needs it on the director's own network (L2); it gets no traffic. Use forwarding TUN or NAT",
                address,
            )
        )
        return False
    if len(share.neighbours) < RESOLVED_SERVERS:
        share.neighbours.add(address)
    neighbour = context.host.neighbours.get(address)
    if neighbour is not None and neighbour.failed:
        share.findings.append(
            Finding(
                Reason.REAL_SERVER_SILENT,
                f"real server {address}: does not answer {'ARP' if version_of(address) == 4 else 'ND'} on "
                f"{route.interface}; check that it is up and on that network",
                address,
            )
        )
    return True


def _path_mtu(
    plan: VirtualServicePlanSpec, address: str, route_mtu: int, interface: str, context: Context, share: Share
) -> None:
    link = context.host.interfaces.get(interface)
    mtu = route_mtu or (link.mtu if link is not None else 1500)
    outer = overhead(plan.tunnel.type, version_of(address))
    if mtu - outer < 1500:
        share.findings.append(
            Finding(
                Reason.PATH_MTU,
                f"real server {address}: the way to it carries {mtu} bytes and {plan.tunnel.type} adds {outer}, so "
                f"clients learn path MTU {mtu - outer}; raise the MTU of {interface} to {1500 + outer} to avoid it",
                address,
                Severity.NOTE,
            )
        )
