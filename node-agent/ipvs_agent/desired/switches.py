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
        return
    sysctls["net/ipv4/vs/conntrack"] = SysctlRow(1, at_least=True)
    for link in sorted(_reply_links(backends, version, context)):
        if version == 4:
            sysctls[f"net/ipv4/conf/{link}/forwarding"] = SysctlRow(1, at_least=True)
        elif f"net/ipv6/conf/{link}/force_forwarding" in context.host.sysctls:
            sysctls[f"net/ipv6/conf/{link}/force_forwarding"] = SysctlRow(1, at_least=True)
        else:
            _global_ipv6_forwarding(context, share)
        if link == interface:
            _no_redirects(link, version, share)
    for gateway in of_version(plan.gateways, version):
        _floating_gateway(plan, gateway, context, share)


def _reply_links(backends: list[PlanBackend], version: int, context: Context) -> set[str]:
    """Interfaces on which the real servers' replies arrive."""
    links: set[str] = set()
    for backend in backends:
        for server in backend.servers:
            if version_of(server.address) == version and server.address not in context.host.own_addresses:
                route = context.host.routes.lookup(server.address)
                if route is not None:
                    links.add(route.interface)
    return links


def _global_ipv6_forwarding(context: Context, share: Share) -> None:
    """The last resort on kernels without ``force_forwarding``.

    The global switch deletes default routes learnt by router advertisement unless ``accept_ra`` is 2 first.
    """
    for link in context.host.interfaces.values():
        path = f"net/ipv6/conf/{link.name}/accept_ra"
        if context.host.sysctls.get(path) == 1:
            share.director.sysctls[path] = SysctlRow(2)
    share.director.sysctls["net/ipv6/conf/all/forwarding"] = SysctlRow(1, at_least=True)


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
