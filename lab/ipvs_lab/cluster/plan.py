"""What a cluster consists of, as values: its networks, its hosts, their addresses, and the routes between them."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ipvs_lab.config import BUILTIN
from ipvs_lab.site import ADDRESS, BRIDGE, NETWORK

NETWORK6, ADDRESS6 = "fd00:10:200::/64", "fd00:10:200::1"
SERVICES, API_SERVICE, DNS_SERVICE = "10.96.0.0/16,fd00:10:96::/112", "10.96.0.1", "10.96.0.10"
CLIENT, ROUTER = "client", "router"
PROXIES = ("none", "nftables", "iptables", "ipvs")
MOST = 90  # nodes: 10.200.0.11 to .100; the addresses from .101 on are free for virtual services


@dataclass(frozen=True)
class Spec:
    """What `up` was asked for.

    nodes       how many
    memory      ceiling of each node's memory, as in "3G"
    kube_proxy  its mode, or "none": then nothing answers for a Service but the API server's own
    networks    1, or 2: the client is on a network of its own then, and a router between it and the nodes
    kernel      the hosts': "builtin", or "modular": IPVS, nftables and tunnels are modules that somebody has to load
    """

    nodes: int = 3
    memory: str = "3G"
    kube_proxy: str = "none"
    networks: int = 1
    kernel: str = BUILTIN

    def __str__(self) -> str:
        networks = f"{self.networks} network{'s' * (self.networks > 1)}"
        return f"{self.nodes} nodes of {self.memory}, kube-proxy {self.kube_proxy}, {networks}, kernel {self.kernel}"


@dataclass(frozen=True)
class Lan:
    """A network of the cluster: a bridge of its site."""

    name: str
    bridge: str
    network: IPv4Network
    network6: IPv6Network


SERVERS = Lan("servers", BRIDGE, IPv4Network(NETWORK), IPv6Network(NETWORK6))
CLIENTS = Lan("clients", "br1", IPv4Network("10.201.0.0/24"), IPv6Network("fd00:10:201::/64"))


@dataclass(frozen=True)
class Foot:
    """A host's cable into a network, and its addresses there."""

    lan: Lan
    address: IPv4Address
    address6: IPv6Address


def foot(lan: Lan, number: int, number6: int) -> Foot:
    """With the addresses of these numbers."""
    return Foot(lan, lan.network[number], lan.network6[number6])


ROUTERS_FEET = foot(SERVERS, 3, 3), foot(CLIENTS, 1, 1)


@dataclass(frozen=True)
class Host:
    """A lab kernel in the cluster's networks. `feet`: `vec0` and so on; it is known by the first one's addresses.
    `pods`: the subnets of its pods; none on a host that is no node."""

    name: str
    feet: tuple[Foot, ...]
    pods: tuple[IPv4Network | IPv6Network, ...] = ()

    @property
    def address(self) -> IPv4Address:
        return self.feet[0].address

    @property
    def address6(self) -> IPv6Address:
        return self.feet[0].address6


def hosts(spec: Spec) -> tuple[Host, ...]:
    """The nodes, with two networks the router between, and the client, which is last."""
    nodes = tuple(
        Host(
            f"node{number}",
            (foot(SERVERS, 10 + number, 0x10 + number),),
            (IPv4Network(f"10.244.{number}.0/24"), IPv6Network(f"fd00:10:244:{number:x}::/64")),
        )
        for number in range(1, spec.nodes + 1)
    )
    if spec.networks == 1:
        return (*nodes, Host(CLIENT, (foot(SERVERS, 2, 2),)))
    return (*nodes, Host(ROUTER, ROUTERS_FEET), Host(CLIENT, (foot(CLIENTS, 2, 2),)))


def pod_routes(every: tuple[Host, ...], besides: str = "") -> list[str]:
    """`ip -batch` lines that lead to the pods of all hosts but one."""
    return [
        f"route add {subnet} via {host.address if subnet.version == 4 else host.address6}"
        for host in every
        if host.name != besides
        for subnet in host.pods
    ]


def client_routes(every: tuple[Host, ...]) -> list[str]:
    """`ip -batch` lines that lead from the servers' network to the clients', where they have one."""
    return [
        f"route add {network} via {gateway}"
        for host in every
        if host.name == ROUTER
        for network, gateway in ((CLIENTS.network, host.address), (CLIENTS.network6, host.address6))
    ]


def interface(host: Host, every: tuple[Host, ...]) -> list[str]:
    """`ip -batch` lines that bring a host into its networks."""
    lines = []
    for number, at in enumerate(host.feet):
        lines += [
            f"addr add {at.address}/{at.lan.network.prefixlen} dev vec{number}",
            f"addr add {at.address6}/{at.lan.network6.prefixlen} dev vec{number} nodad",
            f"link set vec{number} up",
        ]
    return lines + _routes(host, every)


def _routes(host: Host, every: tuple[Host, ...]) -> list[str]:
    """The router knows its two networks and no pod; a client behind it knows nothing but the router."""
    if host.name == ROUTER:
        return []
    if host.feet[0].lan == CLIENTS:
        _, near = ROUTERS_FEET
        return [f"route add default via {gateway}" for gateway in (near.address, near.address6)]
    defaults = [f"route add default via {gateway}" for gateway in (ADDRESS, ADDRESS6)]
    return [*defaults, *client_routes(every), *pod_routes(every, host.name)]
