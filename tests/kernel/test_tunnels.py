"""Our tunnel links and GUE ports with real traffic: IPVS on the director, any kind of tunnel, both families."""

from collections.abc import Callable

import pytest

from ipvs_agent.kernel.addresses import AddressesTable
from ipvs_agent.kernel.fou import FouTable
from ipvs_agent.kernel.links import LinksTable
from ipvs_agent.kernel.rtnetlink import route_socket
from ipvs_agent.rows import AddressKey, AddressRow, FouKey, FouRow, LinkRow
from ipvs_agent.table import Verdict, diff
from ipvs_lab.net import Host, Network, Topology, clients, serve

MakeNetwork = Callable[[Topology], Network]

VIP = {4: "192.0.2.10", 6: "2001:db8:2::10"}
DIRECTOR = {4: "192.0.2.2", 6: "2001:db8:2::2"}
SERVER = {4: "10.0.0.11", 6: "2001:db8:10::11"}
STRANGER = {4: "10.0.0.66", 6: "2001:db8:10::66"}
GUE_PORT = 6080

KINDS = [
    pytest.param(4, "ipip", 0, ("ipip",), id="IPIP"),
    pytest.param(4, "gre", 0, ("gre",), id="GRE"),
    pytest.param(4, "ipip", GUE_PORT, ("gue", "--tun-port", str(GUE_PORT)), id="GUE"),
    pytest.param(6, "ip6tnl", 0, ("ipip",), id="IPIP-IPv6"),
    pytest.param(6, "ip6gre", 0, ("gre",), id="GRE-IPv6"),
    pytest.param(6, "ip6tnl", GUE_PORT, ("gue", "--tun-port", str(GUE_PORT)), id="GUE-IPv6"),
]


@pytest.fixture
def net(network: MakeNetwork) -> Network:
    """Director and real server on two networks, so that replies do not pass the director; a stranger, too."""
    topology = Topology()
    topology.lan("outside")
    topology.lan("inside")
    router = {"outside": "192.0.2.254/24 2001:db8:2::254/64", "inside": "10.0.0.254/24 2001:db8:10::254/64"}
    topology.host("client", outside="192.0.2.1/24 2001:db8:2::1/64", via="192.0.2.254 2001:db8:2::254")
    topology.host("director", outside="192.0.2.2/24 2001:db8:2::2/64", via="192.0.2.254 2001:db8:2::254")
    topology.host("router", **router, forwarding=True)
    topology.host("server", inside="10.0.0.11/24 2001:db8:10::11/64", via="10.0.0.254 2001:db8:10::254")
    topology.host("stranger", inside="10.0.0.66/24 2001:db8:10::66/64", via="10.0.0.254 2001:db8:10::254")
    return network(topology)


def serve_behind_tunnel(server: Host, family: int, link: LinkRow, gue_port: int) -> None:
    """What a TUN real server needs: tunnel, GUE port, VIP, a program.

    The VIP is on the tunnel: on a link without an IPv4 address, loose reverse path filtering drops everything
    (``__fib_validate_source``, ``no_addr``).
    """
    with server.inside(), route_socket() as sock:
        fou = FouTable()
        outcomes = [
            *LinksTable(sock).write(diff({"ivt-1": link}, {})),
            *AddressesTable(sock).write(
                diff({AddressKey("ivt-1", VIP[family]): AddressRow(deprecated=family == 6)}, {})
            ),
            *fou.write(diff({FouKey(family, gue_port): FouRow()} if gue_port else {}, {})),
        ]
        fou.close()
    assert {outcome.verdict for outcome in outcomes} == {Verdict.DONE}
    if family == 4:
        server.sysctl("net/ipv4/conf/ivt-1/rp_filter", 2)
    serve([server], 80)


def at_port_80(family: int) -> tuple[str, str]:
    """The service and the real server as ``ipvsadm`` takes them."""
    shape = "[{}]:80" if family == 6 else "{}:80"
    return shape.format(VIP[family]), shape.format(SERVER[family])


def direct(director: Host, family: int, tunnel: tuple[str, ...], interface: str = "eth0") -> None:
    """A director by ``ip`` and ``ipvsadm``. IPv6 would take a VIP as its outer source unless that is deprecated."""
    service, server = at_port_80(family)
    director.hold(interface, VIP[family], deprecated=True)
    director.run("ipvsadm", "-A", "-t", service, "-s", "rr")
    director.run("ipvsadm", "-a", "-t", service, "-r", server, "-i", "--tun-type", *tunnel)


@pytest.mark.parametrize(("family", "kind", "gue_port", "tunnel"), KINDS)
def test_what_the_director_tunnels_arrives(
    net: Network, family: int, kind: str, gue_port: int, tunnel: tuple[str, ...]
) -> None:
    serve_behind_tunnel(net["server"], family, LinkRow(kind, SERVER[family], DIRECTOR[family], gue_port), gue_port)
    direct(net["director"], family, tunnel)
    told = clients(net["client"], 20, VIP[family], 80)
    assert told.answers == {"server": 20}, str(told)
    assert told.seen == {"server": {net["client"].address(family=family)}}


@pytest.mark.parametrize(("family", "kind"), [(4, "ipip"), (6, "ip6tnl")])
def test_one_link_serves_ipip_and_gue_of_the_same_director(net: Network, family: int, kind: str) -> None:
    """The kernel allows one link for two outer addresses, whatever it sends itself; a GUE port hands over to it."""
    serve_behind_tunnel(net["server"], family, LinkRow(kind, SERVER[family], DIRECTOR[family]), GUE_PORT)
    direct(net["director"], family, ("gue", "--tun-port", str(GUE_PORT)))
    assert clients(net["client"], 10, VIP[family], 80).answers == {"server": 10}
    service, server = at_port_80(family)
    net["director"].run("ipvsadm", "-e", "-t", service, "-r", server, "-i", "--tun-type", "ipip")
    assert clients(net["client"], 10, VIP[family], 80).answers == {"server": 10}


@pytest.mark.parametrize(("family", "kind", "gue_port", "tunnel"), KINDS)
def test_what_a_stranger_tunnels_does_not_enter(
    net: Network, family: int, kind: str, gue_port: int, tunnel: tuple[str, ...]
) -> None:
    serve_behind_tunnel(net["server"], family, LinkRow(kind, SERVER[family], DIRECTOR[family], gue_port), gue_port)
    direct(net["stranger"], family, tunnel)
    net["client"].run("ip", "route", "add", VIP[family], "via", net["router"].address("outside", family))
    net["router"].run("ip", "route", "add", VIP[family], "via", STRANGER[family])
    with net["server"].capture("eth0") as outer, net["server"].capture("ivt-1") as inner:
        told = clients(net["client"], 1, VIP[family], 80, timeout=3)
    assert told.answers == {}
    arrived = [packet for packet in outer.packets() if packet.source == STRANGER[family] and packet.direction == "in"]
    assert [packet for packet in arrived if packet.inner is not None or packet.protocol == "udp"], "nothing was sent"
    assert inner.packets() == []
