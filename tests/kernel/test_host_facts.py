"""What the agent learns about its host, compared with what ``ip`` says and what the kernel does."""

import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from ipvs_agent.facts import Host as Facts
from ipvs_agent.facts import Interface, InterfaceAddress, Route
from ipvs_agent.kernel.addresses import AddressesTable
from ipvs_agent.kernel.host import read_host, resolve
from ipvs_agent.kernel.links import LinksTable
from ipvs_agent.kernel.routes import Path, RoutesTable, route_get, routes_get
from ipvs_agent.kernel.rtnetlink import RouteSocket, route_socket
from ipvs_agent.kernel.rules import RulesTable
from ipvs_agent.kernel.sysctls import SysctlsTable
from ipvs_agent.rows import VIP_LINK, AddressKey, AddressRow, LinkRow, RouteKey, RouteRow, RuleKey, RuleRow
from ipvs_agent.table import Verdict, diff
from ipvs_lab.net import Host, Network, Topology, await_condition

MakeNetwork = Callable[[Topology], Network]

ROUTES = """
route add default via 192.0.2.254 dev eth0
route add 10.1.0.0/16 via 192.0.2.9 dev eth0 metric 50
route add 10.1.0.0/16 via 10.0.0.9 dev eth1 metric 40 mtu 1400
route add 10.2.0.0/16 nexthop via 192.0.2.7 dev eth0 nexthop via 10.0.0.7 dev eth1
route add blackhole 10.3.0.0/16
route add 10.3.1.0/24 via 10.0.0.8 dev eth1
route add unreachable 10.4.0.0/16
route add 10.5.0.0/16 via 192.0.2.5 dev eth0 table 99
route add 10.6.0.0/16 via inet6 2001:db8:2::6 dev eth0
route add default via 2001:db8:2::254 dev eth0
route add 2001:db8:11::/48 via 2001:db8:10::9 dev eth1
route add blackhole 2001:db8:13::/48
"""


@pytest.fixture
def net(network: MakeNetwork) -> Network:
    topology = Topology()
    topology.lan("outside")
    topology.lan("inside")
    topology.host(
        "node", outside="192.0.2.2/24 2001:db8:2::2/64", inside="10.0.0.2/24 2001:db8:10::2/64", forwarding=True
    )
    topology.host("peer", inside="10.0.0.3/24 2001:db8:10::3/64")
    return network(topology)


@pytest.fixture
def sock(net: Network) -> Iterator[RouteSocket]:
    with net["node"].call(route_socket) as opened:
        yield opened


def facts(host: Host, sock: RouteSocket, neighbours: Iterable[str] = (), sysctls: Iterable[str] = ()) -> Facts:
    return host.call(read_host, sock, "node-1", neighbours, sysctls, SysctlsTable())


def test_interfaces_are_what_ip_says(net: Network, sock: RouteSocket) -> None:
    node = net["node"]
    with node.inside():
        LinksTable(sock).write(diff({VIP_LINK: LinkRow("dummy")}, {}))
        vips = {AddressKey(VIP_LINK, "192.0.2.10"): AddressRow(), AddressKey("eth0", "192.0.2.11"): AddressRow()}
        AddressesTable(sock).write(diff(vips, {}))
    node.run("ip", "link", "set", "eth1", "mtu", "1400", "alias", "to the servers")
    node.run("ip", "link", "add", "spare", "type", "bridge")
    found = facts(node, sock)
    shown = {link["ifname"]: link for link in node.addresses()}
    assert found.interfaces.keys() == shown.keys()
    for name, link in found.interfaces.items():
        assert (link.ifindex, link.mtu, link.name) == (shown[name]["ifindex"], shown[name]["mtu"], name)
        assert link.up == ("UP" in shown[name]["flags"])
        assert link.noarp == ("NOARP" in shown[name]["flags"])
        assert link.kind == shown[name].get("linkinfo", {}).get("info_kind", "")
        assert [(one.address, one.prefix_length) for one in link.addresses] == [
            (one["local"], one["prefixlen"]) for one in shown[name]["addr_info"]
        ]
    assert found.interfaces["lo"].loopback
    assert found.interfaces["eth0"].mac == shown["eth0"]["address"]
    assert found.interfaces["eth1"].alias == "to the servers"
    ours = {one.address for link in found.interfaces.values() for one in link.addresses if one.ours}
    assert ours == {"192.0.2.10", "192.0.2.11"}
    assert found.own_addresses["192.0.2.2"] == "eth0"
    assert "192.0.2.11" not in found.own_addresses


def test_the_kernel_and_the_boot_are_named(net: Network, sock: RouteSocket) -> None:
    found = facts(net["node"], sock, sysctls=["net/ipv4/ip_forward", "net/ipv4/no_such_switch"])
    assert found.node == "node-1"
    assert found.kernel_version == net["node"].run("uname", "-r").stdout.strip()
    assert found.boot_id == net["node"].sysctl("kernel.random.boot_id")
    assert found.sysctls == {"net/ipv4/ip_forward": 1}


@pytest.mark.parametrize(
    ("address", "route"),
    [
        ("192.0.2.77", Route("192.0.2.0/24", "eth0")),
        ("198.51.100.1", Route("0.0.0.0/0", "eth0", "192.0.2.254")),
        ("10.1.2.3", Route("10.1.0.0/16", "eth1", "10.0.0.9", mtu=1400, metric=40)),
        ("10.3.2.3", None),
        ("10.3.1.3", Route("10.3.1.0/24", "eth1", "10.0.0.8")),
        ("10.4.2.3", None),
        ("10.5.2.3", Route("0.0.0.0/0", "eth0", "192.0.2.254")),
        ("10.6.2.3", Route("10.6.0.0/16", "eth0", "2001:db8:2::6")),
        ("2001:db8:10::77", Route("2001:db8:10::/64", "eth1", metric=256)),
        ("2001:db8:99::1", Route("::/0", "eth0", "2001:db8:2::254", metric=1024)),
        ("2001:db8:11::1", Route("2001:db8:11::/48", "eth1", "2001:db8:10::9", metric=1024)),
        ("2001:db8:13::1", None),
    ],
)
def test_the_main_table_answers_as_the_kernel_does(
    net: Network, sock: RouteSocket, address: str, route: Route | None
) -> None:
    net["node"].run("ip", "-batch", "-", stdin=ROUTES)
    assert facts(net["node"], sock).routes.lookup(address) == route
    path = net["node"].call(route_get, sock, address)
    assert (path and (path.interface, path.gateway)) == (route and (route.interface, route.gateway))


def test_of_several_next_hops_the_first_stands_for_all(net: Network, sock: RouteSocket) -> None:
    net["node"].run("ip", "-batch", "-", stdin=ROUTES)
    assert facts(net["node"], sock).routes.lookup("10.2.2.3") == Route("10.2.0.0/16", "eth0", "192.0.2.7")


def test_a_route_over_a_dead_link_does_not_count(net: Network, sock: RouteSocket) -> None:
    net["node"].run("ip", "-batch", "-", stdin=ROUTES)
    net["node"].run("ip", "link", "set", "eth1", "down")
    assert facts(net["node"], sock).routes.lookup("10.1.2.3") == Route("10.1.0.0/16", "eth0", "192.0.2.9", metric=50)


def test_the_path_to_an_address_follows_marks_rules_and_what_was_learnt(net: Network, sock: RouteSocket) -> None:
    node = net["node"]
    with node.inside():
        RoutesTable(sock).write(diff({RouteKey(4, 11801, "default"): RouteRow("10.0.0.254", "eth1")}, {}))
        RulesTable(sock).write(diff({RuleKey(4, 11800, 0x10_0000, 0x70_0000): RuleRow(11801)}, {}))
        assert route_get(sock, "198.51.100.1") is None
        assert route_get(sock, "198.51.100.1", mark=0x10_0000) == Path("eth1", "10.0.0.254", "10.0.0.2")
        assert route_get(sock, "198.51.100.1", mark=0x20_0000) is None
        assert route_get(sock, "10.0.0.3", source="192.0.2.2") == Path("eth1", "", "")
        assert route_get(sock, "10.0.0.2") == Path("lo", "", "10.0.0.2", local=True)
        assert route_get(sock, "2001:db8:10::3", interface="eth1") == Path("eth1", "", "2001:db8:10::2")
        many = [f"10.0.{n // 250}.{n % 250 + 1}" for n in range(1000)]
        node.run("ip", "route", "add", "10.0.2.0/24", "dev", "eth1", "mtu", "1300")
        paths = routes_get(sock, many)
        assert [address for address, path in paths.items() if path is not None] == [
            address for address in many if address.startswith(("10.0.0.", "10.0.2."))
        ]
        assert paths["10.0.2.1"] == Path("eth1", "", "10.0.0.2", mtu=1300)


def test_neighbours_are_asked_for_without_a_packet_of_anybodys(net: Network, sock: RouteSocket) -> None:
    node, peer = net["node"], net["peer"]
    node.run("ip", "route", "add", "10.9.0.0/16", "via", "10.0.0.3")
    asked = ["10.0.0.3", "2001:db8:10::3", "10.0.0.99", "10.9.0.1", "10.0.0.2"]
    with peer.capture("eth0") as seen:
        # Behind a gateway and this host's own: nobody to ask.
        assert node.call(resolve, sock, asked) == dict.fromkeys(asked[:3], "eth1")
        await_condition(lambda: facts(node, sock, asked).neighbours["10.0.0.99"].failed, what="nobody answers")
    assert {packet.protocol for packet in seen.packets()} == {"arp", "icmpv6"}
    found = facts(node, sock, asked).neighbours
    with peer.inside(), route_socket() as theirs:
        mac = facts(peer, theirs).interfaces["eth0"].mac
    assert found.keys() == set(asked[:3])
    assert {(found[name].mac, found[name].reachable, found[name].interface) for name in asked[:2]} == {
        (mac, True, "eth1")
    }
    assert found["10.0.0.99"].mac == ""
    assert facts(node, sock).neighbours == {}


def test_a_stale_neighbour_is_confirmed_and_a_dead_one_found_out(net: Network, sock: RouteSocket) -> None:
    node, peer = net["node"], net["peer"]
    node.call(resolve, sock, ["10.0.0.3"])
    node.run("ip", "neigh", "change", "10.0.0.3", "dev", "eth1", "nud", "stale")
    peer.run("ip", "link", "set", "eth0", "down")
    assert facts(node, sock, ["10.0.0.3"]).neighbours["10.0.0.3"].reachable
    node.call(resolve, sock, ["10.0.0.3"])
    await_condition(lambda: facts(node, sock, ["10.0.0.3"]).neighbours["10.0.0.3"].failed, timeout=15, what="failed")
    peer.run("ip", "link", "set", "eth0", "up")
    node.call(resolve, sock, ["10.0.0.3"])
    await_condition(lambda: facts(node, sock, ["10.0.0.3"]).neighbours["10.0.0.3"].reachable, what="there again")


@pytest.mark.realtime
def test_ten_thousand_addresses_on_one_interface_are_read_at_once(net: Network, sock: RouteSocket) -> None:
    node = net["node"]
    wanted = {AddressKey("eth0", f"198.18.{n // 250}.{n % 250}"): AddressRow() for n in range(10_000)}
    with node.inside():
        table = AddressesTable(sock)
        outcomes = table.write(diff(wanted, {}))
        assert {outcome.verdict for outcome in outcomes} == {Verdict.DONE}
        started = time.process_time()
        assert table.read() == wanted
        interface: Interface = facts(node, sock).interfaces["eth0"]
        took = time.process_time() - started
    assert set(interface.addresses) >= {InterfaceAddress(key.address, 32, ours=True) for key in wanted}
    # Both readings took 0.2 s where this was written; one request an address would take seconds.
    assert took < 1.5
