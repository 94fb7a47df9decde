"""What the kernel tells of itself when somebody changes something."""

import asyncio
import selectors
from collections.abc import Callable, Iterator

import pytest

from ipvs_agent.kernel.addresses import AddressesTable
from ipvs_agent.kernel.links import LinksTable
from ipvs_agent.kernel.notifications import LOST, NEIGHBOURS, NFTABLES, TABLES, Notifications
from ipvs_agent.kernel.rtnetlink import route_socket
from ipvs_agent.rows import VIP_LINK, AddressKey, AddressRow, LinkRow
from ipvs_agent.table import diff
from ipvs_lab.net import Host, Network, Topology, await_condition

MakeNetwork = Callable[[Topology], Network]


@pytest.fixture
def net(network: MakeNetwork) -> Network:
    topology = Topology()
    topology.lan("lan")
    topology.host("node", lan="192.0.2.2/24 2001:db8:2::2/64")
    topology.host("peer", lan="192.0.2.3/24")
    return network(topology)


@pytest.fixture
def node(net: Network) -> Host:
    return net["node"]


@pytest.fixture
def told(node: Host) -> Iterator[Notifications]:
    notifications = node.call(Notifications)
    yield notifications
    notifications.close()


def readable(told: Notifications) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(told.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))


@pytest.mark.parametrize(
    ("commands", "tables"),
    [
        (["ip link set eth0 alias mine"], {"links"}),
        (["ip link set eth0 mtu 1400"], {"links"}),
        (["ip route add 10.0.0.0/8 via 192.0.2.9"], {"routes"}),
        (["ip route add 10.0.0.0/8 via 192.0.2.9 table 11801"], {"routes"}),
        (["ip -6 route add 2001:db8:9::/48 via 2001:db8:2::9"], {"routes"}),
        (["ip rule add fwmark 1 lookup 99"], {"rules"}),
        (["ip -6 rule add fwmark 1 lookup 99"], {"rules"}),
        # Local routes, which every address has, do not count as routes.
        (["ip addr add 192.0.2.10/32 dev eth0"], {"addresses"}),
        (["ip addr add 192.0.2.10/32 dev eth0", "ip addr del 192.0.2.10/32 dev eth0"], {"addresses"}),
        (["ip -6 addr add 2001:db8:2::10/128 dev eth0 nodad noprefixroute"], {"addresses"}),
        (["sysctl -q net.ipv4.conf.eth0.rp_filter=2"], {"sysctls"}),
        (["sysctl -q net.ipv4.conf.eth0.forwarding=1"], {"sysctls"}),
        (["sysctl -q net.ipv6.conf.eth0.forwarding=1"], {"sysctls"}),
        (["nft add table ip somebody"], {NFTABLES}),
        (["nft list ruleset", "ip addr", "ip route", "ip rule", "sysctl net.ipv4.conf.eth0.rp_filter"], set()),
    ],
)
def test_whoever_changes_a_table_it_is_told(
    node: Host, told: Notifications, commands: list[str], tables: set[str]
) -> None:
    told.drain()
    assert not readable(told)
    for command in commands:
        node.run(*command.split())
    if tables:  # the kernel tells of IPv6 addresses a moment later
        await_condition(lambda: readable(told), timeout=1, what="something is told")
    assert told.drain() == tables
    assert not readable(told)
    assert told.drain() == set()


def test_only_neighbours_that_are_wanted_are_told(node: Host, told: Notifications) -> None:
    told.drain()
    node.run("ping", "-c1", "192.0.2.3")
    assert told.drain({"192.0.2.9"}) == set()
    node.run("ip", "neigh", "flush", "all")
    assert told.drain({"192.0.2.3"}) == {NEIGHBOURS}
    node.run("ip", "neigh", "add", "2001:db8:2::9", "dev", "eth0", "lladdr", "02:00:00:00:09:00")
    assert told.drain({"2001:db8:2::9"}) == {NEIGHBOURS}


def test_a_link_that_goes_takes_its_addresses_and_routes_with_it(node: Host, told: Notifications) -> None:
    told.drain()
    node.run("ip", "link", "delete", "eth0")
    assert told.drain() == {"links", "addresses", "routes", "sysctls"}


def test_what_was_too_much_is_told_as_lost_and_then_it_is_quiet(node: Host, told: Notifications) -> None:
    with node.inside(), route_socket() as sock:
        LinksTable(sock).write(diff({VIP_LINK: LinkRow("dummy")}, {}))
        vips = {AddressKey(VIP_LINK, f"198.18.{n // 250}.{n % 250}"): AddressRow() for n in range(6000)}
        AddressesTable(sock).write(diff(vips, {}))
    assert told.drain() == {*TABLES, NEIGHBOURS, LOST}
    assert not readable(told)
    assert told.drain() == set()
    node.run("ip", "rule", "add", "fwmark", "1", "lookup", "99")
    assert told.drain() == {"rules"}


def test_an_event_loop_is_woken(node: Host, told: Notifications) -> None:
    async def wait() -> set[str]:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(told.fileno(), woken.set)
        node.run("ip", "rule", "add", "fwmark", "1", "lookup", "99")
        await asyncio.wait_for(woken.wait(), 5)
        loop.remove_reader(told.fileno())
        return told.drain()

    told.drain()
    assert asyncio.run(wait()) == {"rules"}
