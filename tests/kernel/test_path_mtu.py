"""ICMP errors and fragments find their way through a VIP, in both families and by every method."""

import errno
import socket
from typing import Any

import pytest
from tests.kernel.conftest import MakeSite, Site, echoed, virtual_service

from ipvs_lab.net import Host, Topology, clients, serve
from ipvs_lab.topologies import far, one, two

VIP = {4: "192.0.2.10", 6: "2001:db8:2::10"}
BOTH = f"{VIP[4]} {VIP[6]}"
NARROW = 1300
METHODS = [
    pytest.param(two, {"forwarding": "NAT"}, id="NAT-Masquerade"),
    pytest.param(two, {"forwarding": "NAT", "nat": {"returnPath": "Gateway"}}, id="NAT-Gateway"),
    pytest.param(one, {"forwarding": "DR"}, id="DR"),
    pytest.param(far, {"forwarding": "TUN"}, id="TUN"),
]
HOME = {4: "203.0.113.2", 6: "2001:db8:9::2"}


def with_narrow_link(topology: Topology) -> Topology:
    """A client at home behind a link of MTU 1300 that neither it nor the real servers know of."""
    topology.lan("home")
    home: dict[str, Any] = {"clients": "198.51.100.9/24 2001:db8:1::9/64", "home": "203.0.113.1/24 2001:db8:9::1/64"}
    topology.host("access", **home, via="198.51.100.1 2001:db8:1::1", forwarding=True)
    topology.host("home", home="203.0.113.2/24 2001:db8:9::2/64", via="203.0.113.1 2001:db8:9::1")
    return topology


def make_site(site: MakeSite, topology: Topology, spec: dict[str, Any], *ports: str) -> Site:
    lvs = site(topology, nodes=["rs1", "rs2"], gatewayAddresses=["10.0.0.1", "2001:db8:3::1"])
    rips = [*lvs.servers("rs1", "rs2"), *lvs.servers("rs1", "rs2", family=6)]
    lvs.put(virtual_service("web", BOTH, ports, rips, **spec))
    lvs.start()
    return lvs


@pytest.mark.parametrize(("make", "spec"), METHODS)
def test_servers_learn_of_a_narrow_path_to_their_clients(site: MakeSite, make: Any, spec: dict[str, Any]) -> None:
    lvs = make_site(site, with_narrow_link(make()), spec, "80")
    router = lvs["router"]
    for prefix, gateway in (("203.0.113.0/24", "198.51.100.9"), ("2001:db8:9::/64", "2001:db8:1::9")):
        router.run("ip", "route", "add", prefix, "via", gateway, "mtu", str(NARROW))
    serve([lvs["rs1"], lvs["rs2"]], 80)
    for family, vip in VIP.items():
        with lvs["director"].capture("eth0", "icmp or icmp6") as errors:
            assert [echoed(lvs["home"], vip, 30_000) for _ in range(2)] == [True, True]
        told = [p for p in errors.packets() if (p.protocol, p.type, p.code) in (("icmp", 3, 4), ("icmpv6", 2, 0))]
        assert told, f"IPv{family}: segments were too large at first"


def datagram(host: Host, vip: str, size: int) -> bytes:
    """The answer to a datagram of that many bytes."""
    with host.inside():
        sock = socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(2)
        sock.connect((vip, 53))
        sock.send(bytes(size))
        try:
            return sock.recv(100)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
        # Told of a smaller path MTU, the client's kernel cuts smaller fragments (RFC 8201).
        sock.send(bytes(size))
        return sock.recv(100)


@pytest.mark.parametrize(("make", "spec"), METHODS)
def test_fragments_make_one_datagram_and_errors_reach_clients(site: MakeSite, make: Any, spec: dict[str, Any]) -> None:
    lvs = make_site(site, make(), spec, "53/UDP")
    for vip in VIP.values():
        assert clients(lvs["client"], 2, vip, 53, "udp").errors == {"refused": 2}, "nobody listens yet"
    serve([lvs["rs1"], lvs["rs2"]], 53, "udp")
    for vip in VIP.values():
        with lvs["client"].capture("eth0") as sent:
            answers = [datagram(lvs["client"], vip, 4000).split()[0] for _ in range(4)]
        assert sorted(answers) == [b"rs1", b"rs1", b"rs2", b"rs2"]
        assert [p for p in sent.packets() if p.fragment and p.destination == vip]
