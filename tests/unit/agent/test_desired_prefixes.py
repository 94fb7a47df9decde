"""A VIP with a prefix shorter than the address, by somebody's hand: found on whatever link, told with the remedy."""

import pytest
from tests.unit.agent.plans import DIP, VIP, context, plan, real_server

from ipvs_agent.desired.share import Context, Finding, Reason
from ipvs_agent.desired.whole import desired
from ipvs_agent.facts import Interface, InterfaceAddress
from ipvs_api.virtualservice import Forwarding


def having(where: Context, *addresses: InterfaceAddress, loopback: bool = True) -> Context:
    """The same host with another link that has these addresses."""
    link = Interface(7, "lo" if loopback else "dummy0", loopback=loopback, addresses=addresses)
    host = where.host
    links = {**host.interfaces, link.name: link}
    facts = (host.node, host.boot_id, host.kernel_version, links, host.routes, host.neighbours, host.sysctls)
    return Context(type(host)(*facts), where.groups, where.paths)


def findings(where: Context, forwarding: Forwarding = Forwarding.DR) -> list[Finding]:
    return [one for one in desired(plan(forwarding), where).findings if one.reason is Reason.VIP_PREFIX]


@pytest.mark.parametrize("forwarding", [Forwarding.DR, Forwarding.TUN])
def test_a_real_server_with_the_vips_whole_network_on_lo_is_told(forwarding: Forwarding) -> None:
    (found,) = findings(having(real_server(), InterfaceAddress(VIP, 24)), forwarding)
    assert found.message.startswith(f"VIP {VIP} is on lo as {VIP}/24, not by us, so this host takes all of it for its")
    assert "(192.0.2.0/24)" in found.message
    assert f"ip address delete {VIP}/24 dev lo" in found.message


def test_a_director_with_it_on_another_link_is_told_as_well() -> None:
    (found,) = findings(having(context(address=DIP), InterfaceAddress(VIP, 28), loopback=False))
    assert "looks for all of it behind dummy0 (192.0.2.0/28)" in found.message


@pytest.mark.parametrize(
    "address",
    [
        pytest.param(InterfaceAddress(VIP, 32), id="a host prefix"),
        pytest.param(InterfaceAddress("192.0.2.11", 24), id="no VIP of ours"),
        pytest.param(InterfaceAddress(VIP, 24, ours=True), id="our own"),
    ],
)
def test_what_does_no_harm_is_not_told(address: InterfaceAddress) -> None:
    assert findings(having(real_server(), address)) == []


def test_a_host_that_has_nothing_to_do_for_the_plan_is_not_told() -> None:
    bystander = context("other", "192.0.2.40", director=False)
    assert findings(having(bystander, InterfaceAddress(VIP, 24))) == []
