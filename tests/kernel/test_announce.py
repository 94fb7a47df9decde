"""Asking who has an address, and telling who has it now, between hosts on a real LAN."""

import json
import time
from collections import Counter
from collections.abc import Callable

import pytest

from ipvs_agent.facts import Interface
from ipvs_agent.kernel import frames
from ipvs_agent.kernel.announce import BURST, BURST_INTERVAL, Wire, announce, probe
from ipvs_agent.kernel.host import read_host
from ipvs_agent.kernel.rtnetlink import route_socket
from ipvs_agent.kernel.sysctls import SysctlsTable
from ipvs_lab.net import Host, Network, Topology, await_condition

MakeNetwork = Callable[[Topology], Network]

FREE = ["192.0.2.10", "2001:db8:2::10"]


@pytest.fixture
def net(network: MakeNetwork) -> Network:
    topology = Topology()
    topology.lan("lan")
    for number, name in enumerate(("here", "there", "client"), 2):
        topology.host(name, lan=f"192.0.2.{number}/24 2001:db8:2::{number}/64")
    return network(topology)


def link_of(host: Host, name: str = "eth0") -> Interface:
    with host.inside(), route_socket() as sock:
        return read_host(sock, host.name, (), (), SysctlsTable()).interfaces[name]


def await_answer(client: Host, address: str) -> None:
    """IPv6 listens for a new address a moment after it was added."""
    ping = ("ping", "-c1", "-W1", address)
    await_condition(lambda: client.run(*ping, check=False).returncode == 0, what=f"{address} answers")


def known_mac(host: Host, address: str) -> str:
    """What the host believes about a neighbour."""
    return next((entry.get("lladdr", "") for entry in host.neighbours() if entry["dst"] == address), "")


def test_who_has_an_address_is_found_and_a_free_one_is_quiet(net: Network) -> None:
    there = link_of(net["there"]).mac
    asked = [*FREE, "192.0.2.3", "2001:db8:2::3", "192.0.2.4"]
    with net["here"].inside():
        started = time.monotonic()
        holders = probe(link_of(net["here"]), asked)
        took = time.monotonic() - started
    assert holders == {"192.0.2.3": there, "2001:db8:2::3": there, "192.0.2.4": link_of(net["client"]).mac}
    assert 0.55 < took < 2


def test_asking_leaves_no_trace_in_anybodys_cache(net: Network) -> None:
    with net["here"].inside():
        probe(link_of(net["here"]), [*FREE, "192.0.2.3", "2001:db8:2::3"])
    entries = [entry["dst"] for entry in net["there"].neighbours()]
    assert not {*FREE, "192.0.2.2", "0.0.0.0", "2001:db8:2::2", "::"} & set(entries)


def test_of_two_who_are_about_to_take_the_same_address_one_gives_way(net: Network) -> None:
    """Whoever hears the other first stops asking, so that both may find each other, but never neither."""
    results = {name: net.directory / name for name in ("here", "there")}

    def ask(name: str, interface: Interface) -> None:
        results[name].write_text(json.dumps(probe(interface, FREE)))

    links = {name: link_of(net[name]) for name in results}
    children = [net[name].fork(ask, name, links[name]) for name in results]
    assert [child.wait(10) for child in children] == [0, 0]
    found = {name: json.loads(path.read_text()) for name, path in results.items()}
    for address in FREE:
        gave_way = {name: holders[address] for name, holders in found.items() if address in holders}
        assert gave_way, address
        assert gave_way.items() <= {"here": links["there"].mac, "there": links["here"].mac}.items()


def test_what_this_host_has_on_another_link_of_the_same_lan_is_no_conflict(network: MakeNetwork) -> None:
    topology = Topology()
    topology.lan("lan")
    topology.lan("side")
    topology.host("here", lan="192.0.2.2/24", side="192.0.2.10/24")
    net = network(topology)
    net.switch.run(
        "ip", "-batch", "-", stdin="link add both type veth peer name sides\nlink set both up\nlink set sides up\n"
    )
    bridges = [link["ifname"] for link in net.switch.json("ip", "-j", "link", "show", "type", "bridge")]
    for cable, bridge in zip(("both", "sides"), bridges, strict=True):
        net.switch.run("ip", "link", "set", cable, "master", bridge)
    second = link_of(net["here"], "eth1")
    with net["here"].inside():
        assert probe(link_of(net["here"]), ["192.0.2.10"]) == {"192.0.2.10": second.mac}
        assert probe(link_of(net["here"]), ["192.0.2.10"], own=[second.mac]) == {}


@pytest.mark.parametrize("vip", FREE)
def test_an_announcement_moves_an_address_in_every_cache(net: Network, vip: str) -> None:
    net["there"].hold("eth0", vip)
    await_answer(net["client"], vip)
    assert known_mac(net["client"], vip) == link_of(net["there"]).mac
    net["there"].run("ip", "addr", "del", f"{vip}/{128 if ':' in vip else 32}", "dev", "eth0")
    net["here"].hold("eth0", vip)
    with net["here"].inside():
        announce(link_of(net["here"]), [vip])
    await_condition(lambda: known_mac(net["client"], vip) == link_of(net["here"]).mac, what="the client's cache")
    await_answer(net["client"], vip)
    assert known_mac(net["client"], vip) == link_of(net["here"]).mac


@pytest.mark.parametrize("form", [0, 1], ids=["request", "reply"])
def test_each_form_of_gratuitous_arp_is_enough_for_linux(net: Network, form: int) -> None:
    net["there"].hold("eth0", "192.0.2.10")
    await_answer(net["client"], "192.0.2.10")
    mine = link_of(net["here"]).mac
    with net["here"].inside(), Wire("eth0", ipv4=True, ipv6=False) as wire:
        wire.send([frames.announcements(mine, "192.0.2.10")[form]])
    await_condition(lambda: known_mac(net["client"], "192.0.2.10") == mine, what="the client's cache")


def test_a_router_that_announces_itself_stays_its_hosts_router(net: Network) -> None:
    vip = "2001:db8:2::10"
    net["here"].hold("eth0", vip)
    net["here"].sysctl("net/ipv6/conf/all/forwarding", 1)
    await_answer(net["client"], vip)
    with net["here"].inside(), net["client"].capture("eth0", "icmp6[0] = 136") as seen:
        announce(link_of(net["here"]), [vip], routers=[vip])
    (told,) = [packet for packet in seen.packets() if packet.destination == "ff02::1"]
    assert told.source == vip
    (entry,) = [entry for entry in net["client"].neighbours() if entry["dst"] == vip]
    assert "router" in entry


def test_many_addresses_are_asked_for_at_once_and_told_in_bursts(net: Network) -> None:
    addresses = [f"198.51.{n // 250}.{n % 250 + 1}" for n in range(2_000)]
    net["there"].hold("eth0", "198.51.3.7")
    interface = link_of(net["here"])
    with net["here"].inside(), net["client"].capture("eth0", "arp") as seen:
        started = time.monotonic()
        holders = probe(interface, addresses)
        took = time.monotonic() - started
    assert holders == {"198.51.3.7": link_of(net["there"]).mac}
    assert took < 10  # one after the other they would take twenty minutes
    asked = [packet for packet in seen.packets() if packet.source == "0.0.0.0"]
    assert Counter(packet.destination for packet in asked) == {
        address: 1 if address in holders else 3 for address in addresses
    }
    with net["here"].inside(), net["client"].capture("eth0", "arp") as seen:
        announce(interface, addresses)
    told = seen.packets()
    assert len(told) == 2 * len(addresses)
    times = [packet.time for packet in told]
    assert times[-1] - times[0] > (len(told) / BURST - 2) * BURST_INTERVAL
    # Some may be late, and the next ones follow them closely; never many at once.
    window = 13 * BURST
    assert min(later - earlier for earlier, later in zip(times, times[window:], strict=False)) > 10 * BURST_INTERVAL


def test_while_it_listens_for_ipv6_the_interface_takes_every_multicast(net: Network) -> None:
    def taken() -> int:
        (link,) = [link for link in net["here"].links() if link["ifname"] == "eth0"]
        count: int = link["allmulti"]
        return count

    with net["here"].inside(), Wire("eth0", ipv4=False, ipv6=True):
        assert taken() == 1
    assert taken() == 0


def test_a_dead_interface_is_told_and_a_silent_one_is_left_in_peace(net: Network) -> None:
    here = net["here"]
    here.run("ip", "link", "add", "silent0", "type", "dummy")
    here.run("ip", "link", "set", "silent0", "up", "arp", "off")
    with here.inside():
        interface, silent = link_of(here), link_of(here, "silent0")
        with here.capture("silent0") as seen:
            assert probe(silent, FREE) == {}
            announce(silent, FREE)
        assert seen.packets() == []
        here.run("ip", "link", "set", "eth0", "down")
        with pytest.raises(OSError, match="Network is down"):
            probe(interface, FREE)
        here.run("ip", "link", "delete", "silent0")
        with pytest.raises(OSError, match="No such device"):
            probe(Interface(9, "silent0", "02:00:00:00:09:00"), FREE)


def test_no_right_but_cap_net_raw_is_needed(net: Network) -> None:
    program = (
        "from ipvs_agent.facts import Interface\n"
        "from ipvs_agent.kernel.announce import announce, probe\n"
        f"interface = Interface(2, 'eth0', {link_of(net['here']).mac!r})\n"
        "announce(interface, ['192.0.2.10', '2001:db8:2::10'])\n"
        "print(*probe(interface, ['192.0.2.3', '2001:db8:2::3', '192.0.2.10']))"
    )
    done = net["here"].run("setpriv", "--bounding-set", "-all,+net_raw", "python", "-c", program)
    assert done.stdout.split() == ["192.0.2.3", "2001:db8:2::3"]
