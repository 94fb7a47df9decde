"""A real server's silence for VIPs by our table in the ``arp`` family, with every ARP sysctl at its default."""

from collections.abc import Callable

import pytest

from ipvs_agent.kernel.nft import NftTable
from ipvs_agent.rows import NftKey, NftRow
from ipvs_agent.table import Change, Verdict
from ipvs_lab.net import Host, Network, Topology, ask, serve

MakeNetwork = Callable[[Topology], Network]

VIP = "192.0.2.10"


def silence(host: Host, *, own: bool = True) -> None:
    changes = [Change(NftKey("silent4", (VIP,)), None, NftRow())]
    if own:
        changes.append(Change(NftKey("own4", ("eth0",)), None, NftRow(("192.0.2.11",))))
    with NftTable() as table:
        outcomes = host.call(table.write, changes)
    assert [outcome for outcome in outcomes if outcome.verdict is not Verdict.DONE] == []


@pytest.fixture
def net(network: MakeNetwork) -> Network:
    """A client and a real server with the VIP on a dummy link."""
    topology = Topology()
    topology.lan("lan")
    topology.host("client", lan="192.0.2.1/24")
    topology.host("server", lan="192.0.2.11/24")
    net = network(topology)
    server = net["server"]
    assert [server.sysctl(f"net.ipv4.conf.all.{name}") for name in ("arp_ignore", "arp_announce")] == ["0", "0"]
    server.run("ip", "link", "add", "ipvs0", "type", "dummy")
    server.run("ip", "link", "set", "ipvs0", "up")
    server.hold("ipvs0", VIP)
    return net


def who_has(net: Network, address: str) -> bool:
    done = net["client"].run("arping", "-c", "2", "-w", "2", "-I", "eth0", address, check=False)
    return "reply from" in done.stdout.lower()


def test_nobody_hears_from_a_silent_vip(net: Network) -> None:
    assert who_has(net, VIP)
    silence(net["server"])
    assert not who_has(net, VIP)
    assert who_has(net, "192.0.2.11")


@pytest.mark.parametrize(("own", "asker"), [(True, "192.0.2.11"), (False, "0.0.0.0")])
def test_the_server_does_not_ask_in_the_vips_name(net: Network, own: bool, asker: str) -> None:
    """Linux asks with the source of the packet that waits; whoever hears it would send the VIP's traffic here."""
    server = net["server"]

    def askers() -> set[str]:
        server.run("ip", "neigh", "flush", "all")
        with net["client"].capture("eth0", "arp") as seen:
            server.run("ping", "-c1", "-W1", "-I", VIP, "192.0.2.1", check=False)
        return {packet.source for packet in seen.packets() if packet.direction == "in" and packet.type == 1}

    assert askers() == {VIP}
    net["client"].run("ip", "neigh", "flush", "all")
    silence(server, own=own)
    assert askers() == {asker}
    assert VIP not in {neighbour["dst"] for neighbour in net["client"].neighbours() if "lladdr" in neighbour}


def test_answers_from_the_vip_reach_a_client_that_was_not_known(net: Network) -> None:
    """As under DR: the director's MAC is all that the server knows; first it has to ask for the client."""
    serve(net["server"], 80)
    silence(net["server"])
    net["client"].run("ip", "neigh", "add", VIP, "lladdr", "02:00:00:00:02:00", "dev", "eth0")
    net["server"].run("ip", "neigh", "flush", "all")
    assert ask(net["client"], VIP, 80).server == "server"


def test_the_kernels_own_announcements_do_not_leave(net: Network) -> None:
    """``arp_notify`` tells of all addresses of a link whose MAC changes; here the VIP is among them."""
    server = net["server"]
    server.sysctl("net.ipv4.conf.eth0.arp_notify", 1)
    server.hold("eth0", VIP)

    def announced(mac: str) -> set[str]:
        with net["client"].capture("eth0", "arp") as seen:
            server.run("ip", "link", "set", "eth0", "address", mac)
            server.run("sleep", "1")
        return {packet.source for packet in seen.packets() if packet.direction == "in"}

    assert announced("02:00:00:00:02:aa") == {"192.0.2.11", VIP}
    silence(server)
    assert announced("02:00:00:00:02:bb") == {"192.0.2.11"}
