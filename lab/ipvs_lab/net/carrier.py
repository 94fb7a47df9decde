"""Links that carry as soon as they are up.

The kernel tells bridges and IPv6 of a new carrier from a work queue, up to a second later (net/core/link_watch.c).
Until then a port does not forward, and an IPv6 address that is added waits for another random second before it is
answered for (addrconf_dad_kick). Asking a device for its link brings that forward, so that comes before addresses.
"""

import fcntl
import socket
import struct
from ctypes import addressof, create_string_buffer
from pathlib import Path
from typing import TYPE_CHECKING

from ipvs_lab.net.waiting import await_condition

if TYPE_CHECKING:
    from ipvs_lab.net.hosts import Host

SIOCETHTOOL, ETHTOOL_GLINK = 0x8946, 0x0A
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1
RTF_LOCAL = 0x80000000  # linux/ipv6_route.h
GENERATE_NO_ADDRESS = "1"  # IN6_ADDR_GEN_MODE_NONE


def ask_link(interface: str) -> bool:
    """Whether an interface of the calling thread's network has a carrier; whoever waits for news of it gets it now
    (Linux 6.8 and later). OSError for an interface that is not there."""
    request = create_string_buffer(struct.pack("II", ETHTOOL_GLINK, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), addressof(request)))
    return request.raw[4] != 0


def link_up(interface: str) -> None:
    """Set an interface of the calling thread's network up. OSError if it is not there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        found = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH14x", interface.encode(), 0))
        (flags,) = struct.unpack_from("H", found, 16)
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", interface.encode(), flags | IFF_UP))


def links_up(host: "Host", interfaces: list[str]) -> None:
    """A host's loopback and its ends of cables, whose other ends are up already. The kernel gives them no link-local
    addresses: those would be tentative for two seconds."""
    with host.inside():
        link_up("lo")
        for interface in interfaces:
            Path(f"/proc/sys/net/ipv6/conf/{interface}/addr_gen_mode").write_text(GENERATE_NO_ADDRESS)
            link_up(interface)
            ask_link(interface)


def settle(host: "Host", interfaces: list[str]) -> None:
    """Have everybody know the state of some of a host's links."""
    with host.inside():
        for interface in interfaces:
            ask_link(interface)


def await_forwarding(switch: "Host", ports: list[str]) -> None:
    """Wait until the bridges forward on all of these ports. Older kernels need a second for that."""

    def forwarding() -> bool:
        settle(switch, ports)
        state = {
            link["ifname"]: link.get("linkinfo", {}).get("info_slave_data", {}).get("state") for link in switch.links()
        }
        return all(state[port] == "forwarding" for port in ports)

    await_condition(forwarding, what="the bridges forward")


def await_addresses(hosts: "list[Host]") -> None:
    """Wait until the hosts' IPv6 addresses are all their own: the kernel takes each up, and makes its local route,
    from a work queue (addrconf_dad_completed), also where no duplicate is looked for."""

    def lacking() -> list[str]:
        return [host.name for host in hosts if not _has_local_routes(host)]

    await_condition(lambda: not lacking(), what="every IPv6 address has its local route")


def _has_local_routes(host: "Host") -> bool:
    with host.inside():
        net = Path("/proc/thread-self/net")
        addresses = {line.split()[0] for line in (net / "if_inet6").read_text().splitlines()}
        routes = [line.split() for line in (net / "ipv6_route").read_text().splitlines()]
    # A /128 has a second route of the same length, to its interface, which is there at once.
    return addresses <= {words[0] for words in routes if words[1] == "80" and int(words[8], 16) & RTF_LOCAL}
