"""What this host is: one reading of interfaces, main table, neighbours and switches, as the values that decisions take.

Besides: make the kernel find out who a neighbour is, without a packet of anybody's. Kernel: ``net/core/neighbour.c``.
"""

import os
import struct
from collections import defaultdict
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from ipvs_agent.facts import Host, Interface, InterfaceAddress, Neighbour, Route, Routes
from ipvs_agent.kernel import rtnetlink
from ipvs_agent.kernel.addresses import is_ours, read_addresses
from ipvs_agent.kernel.attributes import attribute
from ipvs_agent.kernel.links import IFF_LOOPBACK, IFF_NOARP, IFF_UP, LinkEntry, read_links
from ipvs_agent.kernel.netlink import Request
from ipvs_agent.kernel.routes import (
    BLACKHOLE,
    F_DEAD,
    MAIN_TABLE,
    PROHIBIT,
    THROW,
    UNICAST,
    UNREACHABLE,
    RouteEntry,
    read_routes,
    routes_get,
)
from ipvs_agent.kernel.rtnetlink import AF_INET, AF_INET6, FAMILY, RouteSocket, attributes
from ipvs_agent.kernel.sysctls import SysctlsTable

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, index, state, flags, type
_NDA_DST, _NDA_LLADDR = 1, 2
_NTF_USE = 0x01
_REACHABLE = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # REACHABLE, STALE, DELAY, PROBE, PERMANENT
_FAILED = 0x20
_MAC_LENGTH = 17  # in text; tunnels have outer addresses in its place
_REFUSED = (BLACKHOLE, UNREACHABLE, PROHIBIT, THROW)


def read_host(
    sock: RouteSocket, node: str, neighbours: Iterable[str], sysctls: Iterable[str], table: SysctlsTable
) -> Host:
    """This host now. ``neighbours``: addresses whose neighbour entries are wanted; ``sysctls``: paths of switches.

    NetlinkError when the kernel refuses a dump.
    """
    links = read_links(sock)
    names = {link.ifindex: link.name for link in links}
    return Host(
        node=node,
        boot_id=boot_id(),
        kernel_version=os.uname().release,
        interfaces=_interfaces(sock, links),
        routes=Routes(tuple(_routes(sock, names))),
        neighbours=read_neighbours(sock, neighbours, names),
        sysctls={path: row.value for path, row in table.read(sysctls).items()},
    )


def boot_id() -> str:
    """Changes with every boot; empty where ``/proc`` does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _interfaces(sock: RouteSocket, links: list[LinkEntry]) -> dict[str, Interface]:
    ours = {link.ifindex for link in links if link.ours}
    addresses: dict[int, list[InterfaceAddress]] = defaultdict(list)
    for entry in read_addresses(sock):
        mine = is_ours(entry, entry.ifindex in ours)
        addresses[entry.ifindex].append(InterfaceAddress(entry.text, entry.prefix_length, mine))
    return {
        link.name: Interface(
            link.ifindex,
            link.name,
            link.mac if len(link.mac) == _MAC_LENGTH else "",
            link.mtu,
            link.flags & IFF_UP != 0,
            link.flags & IFF_LOOPBACK != 0,
            link.flags & IFF_NOARP != 0,
            link.kind,
            link.alias,
            tuple(addresses[link.ifindex]),
        )
        for link in links
    }


def _routes(sock: RouteSocket, names: dict[int, str]) -> Iterable[Route]:
    for family in (AF_INET, AF_INET6):
        for entry in read_routes(sock, family, MAIN_TABLE):
            if _counts(entry):
                name = names.get(entry.ifindex, "") if entry.type == UNICAST else ""
                yield Route(entry.destination, name, entry.gateway if name else "", entry.mtu, entry.metric)


def _counts(entry: RouteEntry) -> bool:
    """Link-local prefixes say nothing: every link has the same."""
    if entry.type not in (UNICAST, *_REFUSED) or entry.flags & F_DEAD:
        return False
    return not (entry.family == AF_INET6 and entry.destination.startswith(("fe80:", "ff00:")))


def read_neighbours(sock: RouteSocket, addresses: Iterable[str], names: dict[int, str]) -> dict[str, Neighbour]:
    """The neighbour entries of ``addresses``; of several for one address, the one that answers. ``names``: by index."""
    wanted = {(parsed.version, parsed.packed): str(parsed) for parsed in map(ip_address, addresses)}
    found: dict[str, Neighbour] = {}
    for version in {version for version, _ in wanted}:
        for body in sock.dump(rtnetlink.GETNEIGH, _NEIGHBOUR.pack(FAMILY[version], 0, 0, 0, 0)):
            _, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
            told = attributes(body, _NEIGHBOUR.size)
            address = wanted.get((version, told.get(_NDA_DST, b"")))
            if address is None:
                continue
            mac = told.get(_NDA_LLADDR, b"").hex(":") if state & _REACHABLE else ""
            neighbour = Neighbour(names.get(index, ""), mac, state & _REACHABLE != 0, state & _FAILED != 0)
            if address not in found or not found[address].reachable:
                found[address] = neighbour
    return found


def resolve(sock: RouteSocket, addresses: Iterable[str]) -> dict[str, str]:
    """Make the kernel ask who these neighbours are (``NTF_USE``); ``read_neighbours`` has the answers soon after.

    Gives the interface by address, for those that are asked for: on-link (also by a route that names the neighbour
    itself as gateway, as ours to DR real servers do), not this host's own. An entry that is known
    and fresh is left alone, a stale one is confirmed, a failed one tried again.
    """
    paths = routes_get(sock, addresses)
    asked = {
        address: path.interface
        for address, path in paths.items()
        if path is not None and path.gateway in ("", address) and not path.local
    }
    indices = {link.name: link.ifindex for link in read_links(sock)} if asked else {}
    requests = []
    for address, interface in asked.items():
        parsed = ip_address(address)
        body = _NEIGHBOUR.pack(FAMILY[parsed.version], indices.get(interface, 0), 0, _NTF_USE, 0)
        requests.append(Request(rtnetlink.NEWNEIGH, rtnetlink.F_CREATE, body + attribute(_NDA_DST, parsed.packed)))
    replies = sock.exchange(requests)
    return {address: asked[address] for address, reply in zip(asked, replies, strict=True) if reply.error == 0}
