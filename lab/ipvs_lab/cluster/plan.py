"""What a cluster consists of, as values: its hosts, their addresses, and the routes between them."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ipvs_lab.site import ADDRESS

NETWORK6, ADDRESS6 = "fd00:10:200::/64", "fd00:10:200::1"
SERVICES, API_SERVICE, DNS_SERVICE = "10.96.0.0/16,fd00:10:96::/112", "10.96.0.1", "10.96.0.10"
CLIENT = "client"
PROXIES = ("none", "nftables", "iptables", "ipvs")
MOST = 90  # nodes: 10.200.0.11 to .100; the addresses from .101 on are free for virtual services


@dataclass(frozen=True)
class Spec:
    """What `up` was asked for.

    nodes       how many
    memory      ceiling of each node's memory, as in "3G"
    kube_proxy  its mode, or "none": then nothing answers for a Service but the API server's own
    """

    nodes: int = 3
    memory: str = "3G"
    kube_proxy: str = "none"

    def __str__(self) -> str:
        return f"{self.nodes} nodes of {self.memory}, kube-proxy {self.kube_proxy}"


@dataclass(frozen=True)
class Host:
    """A lab kernel in the cluster's network. `pods`: the subnets of its pods; none on a host that is no node."""

    name: str
    address: IPv4Address
    address6: IPv6Address
    pods: tuple[IPv4Network | IPv6Network, ...] = ()


def hosts(count: int) -> tuple[Host, ...]:
    """The nodes, and the client beside them, which is last."""
    nodes = tuple(
        Host(
            f"node{number}",
            IPv4Address(ADDRESS) + 10 + number - 1,
            IPv6Address(ADDRESS6) + 0x10 + number - 1,
            (IPv4Network(f"10.244.{number}.0/24"), IPv6Network(f"fd00:10:244:{number:x}::/64")),
        )
        for number in range(1, count + 1)
    )
    return (*nodes, Host(CLIENT, IPv4Address(ADDRESS) + 1, IPv6Address(ADDRESS6) + 1))


def pod_routes(every: tuple[Host, ...], besides: str = "") -> list[str]:
    """`ip -batch` lines that lead to the pods of all hosts but one."""
    return [
        f"route add {subnet} via {host.address if subnet.version == 4 else host.address6}"
        for host in every
        if host.name != besides
        for subnet in host.pods
    ]


def interface(host: Host, every: tuple[Host, ...]) -> list[str]:
    """`ip -batch` lines that bring a host into the network."""
    return [
        f"addr add {host.address}/24 dev vec0",
        f"addr add {host.address6}/64 dev vec0 nodad",
        "link set vec0 up",
        f"route add default via {ADDRESS}",
        f"route add default via {ADDRESS6}",
        *pod_routes(every, host.name),
    ]
