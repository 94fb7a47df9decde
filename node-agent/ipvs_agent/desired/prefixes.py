"""VIPs that somebody put on this host with a prefix shorter than the address: a classic way to lose a whole network."""

from collections.abc import Iterator
from ipaddress import ip_interface

from ipvs_agent.desired.share import Context, Finding, Reason, version_of
from ipvs_api.plan import VirtualServicePlanSpec


def prefix_findings(plan: VirtualServicePlanSpec, context: Context) -> Iterator[Finding]:
    """One for each address of the host that is a VIP of ``plan`` and not /32 (/128).

    On ``lo`` the kernel makes every address of the prefix its own (``fib_add_ifaddr``, net/ipv4/fib_frontend.c), on
    another link it looks for all of them behind that link: real servers and clients of that network get no answers.
    """
    vips = {entry.address for entry in plan.addresses} & context.host.own_addresses.keys()
    if not vips:
        return
    for link in sorted(context.host.interfaces.values(), key=lambda link: link.name):
        for address, length, ours in link.addresses:
            whole = 32 if version_of(address) == 4 else 128
            if address not in vips or ours or length == whole:
                continue
            network = ip_interface(f"{address}/{length}").network
            effect = "takes all of it for its own" if link.loopback else f"looks for all of it behind {link.name}"
            yield Finding(
                Reason.VIP_PREFIX,
                f"VIP {address} is on {link.name} as {address}/{length}, not by us, so this host {effect} ({network}) "
                f"and cannot answer who is there; the agent puts the VIP where it belongs, so delete this one "
                f"(ip address delete {address}/{length} dev {link.name}) or make it /{whole}",
            )
