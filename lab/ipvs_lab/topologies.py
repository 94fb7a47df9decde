"""The networks that everybody talks about, by name. Each has a client, a router, a director and three real servers.

  two   clients behind a router, the director between them and the real servers   (LVS-NAT, the classic way)
  one   director and real servers on one LAN, clients behind a router             (LVS-DR, one-network NAT)
  far   as `one`, but a second router lies between director and real servers      (LVS-TUN)

All speak IPv4 and IPv6. The addresses to use as VIPs are 192.0.2.10 to 192.0.2.99 and 2001:db8:2::10 to ::99.
"""

from collections.abc import Callable

from ipvs_lab.net.topology import Topology

REAL_SERVERS = (1, 2, 3)


def _clients(topology: Topology, inner: int = 0) -> None:
    """A client in a network of its own, and a router between it and the service's network. `inner`: the host number
    there through which the real servers' own network is reached, if they have one."""
    servers = (f"10.0.0.0/24 via 192.0.2.{inner}", f"2001:db8:3::/64 via 2001:db8:2::{inner}") if inner else ()
    topology.lan("clients")
    topology.lan("lan")
    topology.host("client", clients="198.51.100.2/24 2001:db8:1::2/64", via="198.51.100.1 2001:db8:1::1")
    topology.host(
        "router",
        clients="198.51.100.1/24 2001:db8:1::1/64",
        lan="192.0.2.1/24 2001:db8:2::1/64",
        routes=servers,
        forwarding=True,
    )


def two() -> Topology:
    """The director has a network of its own for the real servers, whose default gateway it is."""
    topology = Topology()
    _clients(topology, inner=2)
    topology.lan("servers")
    topology.host(
        "director",
        lan="192.0.2.2/24 2001:db8:2::2/64",
        servers="10.0.0.1/24 2001:db8:3::1/64",
        via="192.0.2.1 2001:db8:2::1",
    )
    for i in REAL_SERVERS:
        address = f"10.0.0.1{i}/24 2001:db8:3::1{i}/64"
        topology.host(f"rs{i}", servers=address, via="10.0.0.1 2001:db8:3::1")
    return topology


def one() -> Topology:
    """Everybody but the client is on one LAN, behind the router."""
    topology = Topology()
    _clients(topology)
    gateways = "192.0.2.1 2001:db8:2::1"
    topology.host("director", lan="192.0.2.2/24 2001:db8:2::2/64", via=gateways)
    for i in REAL_SERVERS:
        topology.host(f"rs{i}", lan=f"192.0.2.10{i}/24 2001:db8:2::10{i}/64", via=gateways)
    return topology


def far() -> Topology:
    """The real servers are somewhere else, and answer clients over a router of their own."""
    topology = Topology()
    _clients(topology, inner=3)
    topology.lan("servers")
    topology.host(
        "edge",
        lan="192.0.2.3/24 2001:db8:2::3/64",
        servers="10.0.0.1/24 2001:db8:3::1/64",
        via="192.0.2.1 2001:db8:2::1",
        forwarding=True,
    )
    topology.host(
        "director",
        lan="192.0.2.2/24 2001:db8:2::2/64",
        via="192.0.2.1 2001:db8:2::1",
        routes=("10.0.0.0/24 via 192.0.2.3", "2001:db8:3::/64 via 2001:db8:2::3"),
    )
    for i in REAL_SERVERS:
        address = f"10.0.0.1{i}/24 2001:db8:3::1{i}/64"
        topology.host(f"rs{i}", servers=address, via="10.0.0.1 2001:db8:3::1")
    return topology


TOPOLOGIES: dict[str, Callable[[], Topology]] = {"nat": two, "dr": one, "tun": far, "two": two, "one": one, "far": far}
