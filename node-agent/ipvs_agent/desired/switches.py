"""What the director role needs of the host besides its tables: switches, redirects, the floating gateway."""

from ipvs_agent.desired.share import Context, Finding, Reason, Share, of_version, version_of
from ipvs_agent.rows import AddressKey, AddressRow, NftKey, NftRow, SysctlRow
from ipvs_api.plan import PlanBackend, VirtualServicePlanSpec
from ipvs_api.virtualservice import Forwarding


def raise_switches(
    plan: VirtualServicePlanSpec,
    backends: list[PlanBackend],
    interface: str,
    version: int,
    context: Context,
    share: Share,
) -> None:
    """Sysctls of the director role (Documentation/networking/{ipvs,ip}-sysctl.rst), in the narrowest scope."""
    sysctls = share.director.sysctls
    # Without it a deleted destination's clients hang instead of getting a RST, and UDP never leaves it.
    sysctls["net/ipv4/vs/expire_nodest_conn"] = SysctlRow(1, at_least=True)
    if plan.persistence is not None:
        # A persistent template would keep its clients on a draining real server.
        sysctls["net/ipv4/vs/expire_quiescent_template"] = SysctlRow(1, at_least=True)
    if plan.forwarding is not Forwarding.NAT:
        if version == 4 and of_version(context.behind, 4):
            # Others answer what is behind this host with its own address, the VIP, as their source.
            elsewhere = [backend for backend in backends if backend.node != context.node]
            for link in _reply_links(elsewhere, version, context):
                sysctls[f"net/ipv4/conf/{link}/accept_local"] = SysctlRow(1, at_least=True)
        return
    sysctls["net/ipv4/vs/conntrack"] = SysctlRow(1, at_least=True)
    links = _reply_links(backends, version, context)
    sysctls |= forwarding(links, version, context)
    if interface in links:
        _no_redirects(interface, version, share)
    for gateway in of_version(plan.gateways, version):
        _floating_gateway(plan, gateway, context, share)


def _reply_links(backends: list[PlanBackend], version: int, context: Context) -> set[str]:
    """Interfaces on which answers of real servers, or of the nodes that they are behind, arrive."""
    links: set[str] = set()
    for backend in backends:
        for address in of_version((*backend.addresses, *(server.address for server in backend.servers)), version):
            route = context.host.routes.lookup(address)
            if route is not None and address not in context.host.own_addresses:
                links.add(route.interface)
    return links


def forwarding(links: set[str], version: int, context: Context) -> dict[str, SysctlRow]:
    """Switches that let packets which arrive on ``links`` go on to other hosts.

    Kernels without IPv6 ``force_forwarding`` have one switch for all links, which deletes default routes learnt by
    router advertisement unless ``accept_ra`` is 2 first: the last resort.
    """
    raised = SysctlRow(1, at_least=True)
    if version == 4:
        return {f"net/ipv4/conf/{link}/forwarding": raised for link in sorted(links)}
    own = {f"net/ipv6/conf/{link}/force_forwarding": raised for link in sorted(links)}
    if own.keys() & context.host.sysctls.keys():
        return own
    accepting = (f"net/ipv6/conf/{name}/accept_ra" for name in context.host.interfaces)
    kept = {path: SysctlRow(2) for path in accepting if context.host.sysctls.get(path) == 1}
    return kept | {"net/ipv6/conf/all/forwarding": raised}


def _no_redirects(link: str, version: int, share: Share) -> None:
    """One network for clients and real servers: a redirect would send them past the director."""
    if version == 4:
        share.director.sysctls["net/ipv4/conf/all/send_redirects"] = SysctlRow(0)
        share.director.sysctls[f"net/ipv4/conf/{link}/send_redirects"] = SysctlRow(0)
    else:
        share.director.elements[NftKey("no_redirects", (link,))] = NftRow()


def _floating_gateway(plan: VirtualServicePlanSpec, gateway: str, context: Context, share: Share) -> None:
    group = context.groups[plan.director_group]
    if not group.gateway_holder or gateway not in group.gateway_addresses:
        return
    if gateway in context.host.own_addresses:
        return
    route = context.host.routes.lookup(gateway)
    if route is None or route.gateway:
        share.findings.append(
            Finding(
                Reason.GATEWAY_NOT_ON_LINK,
                f"gateway address {gateway} of DirectorGroup {group.name}: no interface of this host is on its "
                "network; give the host an address there or choose a gateway address of the real servers' network",
            )
        )
        return
    share.director.addresses[AddressKey(route.interface, gateway)] = AddressRow(deprecated=version_of(gateway) == 6)
