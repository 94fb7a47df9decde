"""What a network is to look like, as values, and the `ip -batch` text that makes it so. Pure.

Every LAN is a bridge in one namespace of its own (the switch), so no host sees the bridges; every host has one cable
(veth pair) for each LAN it is on, called eth0, eth1, ... in the order given.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field

SWITCH = "switch"  # the namespace of the bridges


@dataclass(frozen=True)
class LanPlan:
    """One broadcast domain.

    delay, loss, rate: what a frame meets on its way across, in tc-netem(8)'s words: "2ms", "1%", "10mbit".
    """

    name: str
    delay: str = ""
    loss: str = ""
    rate: str = ""
    mtu: int = 1500


@dataclass(frozen=True)
class Port:
    """A host's connection to a LAN. `addresses` with their prefix lengths, of both families."""

    lan: str
    interface: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class HostPlan:
    """One host. `via`: default gateways, at most one per family. `forwarding`: it is a router, in both families.
    `sysctls`: further settings, as in {"net.ipv4.conf.all.rp_filter": 1}."""

    name: str
    ports: tuple[Port, ...] = ()
    via: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    sysctls: dict[str, str] = field(default_factory=dict)


@dataclass
class Topology:
    """Hosts and LANs, gathered one by one.

    topology = Topology()
    topology.lan("outside")
    topology.lan("inside", delay="2ms", loss="1%")
    topology.host("client", outside="192.0.2.1/24 2001:db8::1/64")
    topology.host("director", outside="192.0.2.2/24", inside="10.0.0.1/24", forwarding=True)
    topology.host("rs1", inside="10.0.0.11/24", via="10.0.0.1")
    """

    lans: dict[str, LanPlan] = field(default_factory=dict)
    hosts: dict[str, HostPlan] = field(default_factory=dict)

    def lan(self, name: str, *, delay: str = "", loss: str = "", rate: str = "", mtu: int = 1500) -> LanPlan:
        """Add a LAN. ValueError if there is one of that name."""
        if name in self.lans:
            raise ValueError(f"there are two LANs called {name}")
        self.lans[name] = LanPlan(name, delay, loss, rate, mtu)
        return self.lans[name]

    def host(
        self,
        name: str,
        *,
        via: str = "",
        routes: tuple[str, ...] = (),
        forwarding: bool = False,
        sysctls: dict[str, str | int] | None = None,
        **addresses: str,
    ) -> HostPlan:
        """Add a host that is on the LANs named by the other keywords, with the addresses given ("10.0.0.1/24
        2001:db8::1/64", or "" for none). `via`: default gateways. `routes`: more routes, as `ip route add` takes them.

        ValueError for a name used twice, a LAN that is not there, or an address without a prefix length.
        """
        if name in self.hosts or name == SWITCH:
            raise ValueError(f"there are two hosts called {name}")
        for lan, text in addresses.items():
            if lan not in self.lans:
                raise ValueError(f"{name} is on LAN {lan}, which is not there; LANs are {', '.join(self.lans)}")
            for address in text.split():
                ipaddress.ip_interface(address)
                if "/" not in address:
                    raise ValueError(f"{name}: {address} on {lan} needs a prefix length")
        ports = tuple(Port(lan, f"eth{i}", tuple(text.split())) for i, (lan, text) in enumerate(addresses.items()))
        switches = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"} if forwarding else {}
        settings = switches | {key: str(value) for key, value in (sysctls or {}).items()}
        self.hosts[name] = HostPlan(name, ports, tuple(via.split()), routes, settings)
        return self.hosts[name]


def cables(topology: Topology) -> Iterator[tuple[int, HostPlan, int, Port]]:
    """Every cable: host number, host, port number, port."""
    for h, host in enumerate(topology.hosts.values(), 1):
        for p, port in enumerate(host.ports):
            yield h, host, p, port


def mac(host: int, port: int) -> str:
    """A host's Ethernet address: readable in captures as 02:00:00:00:HOST:PORT."""
    return f"02:00:00:00:{host:02x}:{port:02x}"


def far_end(host: int, port: int) -> str:
    """The switch's side of a cable."""
    return f"h{host}p{port}"


def switch_batch(topology: Topology) -> str:
    """`ip -batch` for the switch: bridges, cables plugged in, and the hosts' ends pushed into the hosts."""
    lines = []
    for lan in topology.lans.values():
        # No spanning tree and no snooping: a lab's LAN works from its first frame, multicast included.
        lines.append(f"link add {lan.name} mtu {lan.mtu} type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
        lines.append(f"link set {lan.name} up")
    for h, host, p, port in cables(topology):
        mtu = topology.lans[port.lan].mtu
        lines.append(
            f"link add {far_end(h, p)} mtu {mtu} type veth "
            f"peer name {port.interface} netns {host.name} address {mac(h, p)} mtu {mtu}"
        )
        lines.append(f"link set {far_end(h, p)} master {port.lan} up")
    return "".join(line + "\n" for line in lines)


def impairment(*, delay: str = "", loss: str = "", rate: str = "") -> str:
    """netem's arguments, "" when there is nothing to impair."""
    words = (("delay", delay), ("loss", loss), ("rate", rate))
    return " ".join(f"{word} {value}" for word, value in words if value)


def switch_tc_batch(topology: Topology) -> str:
    """`tc -batch` for the switch: a frame is delayed or lost once, where it leaves the switch."""
    lines = []
    for h, _, p, port in cables(topology):
        lan = topology.lans[port.lan]
        if netem := impairment(delay=lan.delay, loss=lan.loss, rate=lan.rate):
            lines.append(f"qdisc add dev {far_end(h, p)} root netem limit 10000 {netem}")
    return "".join(line + "\n" for line in lines)


def link_local(host: int, port: int) -> str:
    """The link-local address that goes with `mac` (RFC 4291, appendix A)."""
    return f"fe80::ff:fe00:{host << 8 | port:x}/64"


def host_batch(number: int, host: HostPlan) -> str:
    """`ip -batch` for one host whose links are up: its addresses and routes.

    IPv6 addresses, link-local ones too, come without duplicate address detection: they are unique by construction,
    and tentative ones would make every test wait two seconds. Addresses added later are detected as usual.
    """
    lines = []
    for p, port in enumerate(host.ports):
        for address in (*port.addresses, link_local(number, p)):
            flags = " nodad" if ":" in address else ""
            lines.append(f"addr add {address} dev {port.interface}{flags}")
    lines += [f"route add default via {gateway}" for gateway in host.via]
    lines += [f"route add {route}" for route in host.routes]
    return "".join(line + "\n" for line in lines)
