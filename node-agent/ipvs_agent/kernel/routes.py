"""Routes: ours (our protocol, our tables), those of the main table, and the kernel's own answer for one address.

Kernel: ``net/ipv4/fib_frontend.c``, ``net/ipv4/route.c``, ``net/ipv6/route.c``.
"""

import errno
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from ipvs_agent.kernel import rtnetlink
from ipvs_agent.kernel.attributes import attribute
from ipvs_agent.kernel.links import read_links
from ipvs_agent.kernel.netlink import Reply, Request
from ipvs_agent.kernel.rtnetlink import AF_INET6, FAMILY, RouteSocket, address_text, attributes, number, outcome_of
from ipvs_agent.rows import RETURN_PATHS, ROUTE_PROTOCOL, ROUTE_TABLE_BASE, RouteKey, RouteRow
from ipvs_agent.table import Change, Outcome, Verdict

MAIN_TABLE, LOCAL_TABLE = 254, 255
UNICAST, LOCAL, BLACKHOLE, UNREACHABLE, PROHIBIT, THROW = 1, 2, 6, 7, 8, 9
_OUR_TABLES = range(ROUTE_TABLE_BASE, ROUTE_TABLE_BASE + RETURN_PATHS + 1)

_HEADER = struct.Struct(
    "=BBBBBBBBI"
)  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NEXT_HOP = struct.Struct("=HBBi")  # struct rtnexthop: length, flags, hops, index
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_METRICS = 1, 2, 4, 5, 6, 7, 8
_RTA_MULTIPATH, _RTA_TABLE, _RTA_MARK, _RTA_VIA = 9, 15, 16, 18
_RTAX_MTU = 2
F_DEAD, _F_ONLINK, _F_CLONED = 0x1, 0x4, 0x200
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_ANY = 0, 253, 255
_QUESTIONS = 200  # in one send


class RouteEntry(NamedTuple):
    """A route as the kernel tells it. ``destination``: a prefix. ``gateway``: empty on-link. ``mtu``: 0 for the link's.

    Of several next hops it is the first.
    """

    family: int
    table: int
    type: int
    protocol: int
    destination: str
    ifindex: int
    gateway: str
    metric: int
    mtu: int
    flags: int
    source: str = ""


def read_routes(sock: RouteSocket, family: int, table: int = 0, protocol: int = 0) -> list[RouteEntry]:
    """The routes of a family (``AF_INET``, ``AF_INET6``); of one table or protocol other than 0, as far as the kernel
    filters, which older ones do not."""
    small = table if table < 256 else 0
    body = _HEADER.pack(family, 0, 0, 0, small, protocol, 0, 0, 0)
    if table:
        body += attribute(_RTA_TABLE, struct.pack("=I", table))
    try:
        bodies = sock.dump(rtnetlink.GETROUTE, body)
    except OSError as failure:
        if failure.errno == errno.ENOENT:  # the kernel's way to say that the table was never made
            return []
        raise
    entries = (_entry(answer) for answer in bodies)
    return [entry for entry in entries if not entry.flags & _F_CLONED and table in (0, entry.table)]


def _entry(body: bytes) -> RouteEntry:
    family, length, _, _, table, protocol, _, kind, flags = _HEADER.unpack_from(body)
    found = attributes(body, _HEADER.size)
    index = number(found.get(_RTA_OIF))
    hop = found
    if several := found.get(_RTA_MULTIPATH):
        size, hop_flags, _, index = _NEXT_HOP.unpack_from(several)
        hop = attributes(several[:size], _NEXT_HOP.size)
        flags |= hop_flags
    packed = found.get(_RTA_DST, bytes(16 if family == AF_INET6 else 4))
    return RouteEntry(
        family,
        number(found.get(_RTA_TABLE), table),
        kind,
        protocol,
        f"{address_text(family, packed)}/{length}",
        index,
        _gateway(family, hop),
        number(found.get(_RTA_PRIORITY)),
        number(attributes(found.get(_RTA_METRICS, b"")).get(_RTAX_MTU)),
        flags,
        address_text(family, found[_RTA_PREFSRC]) if _RTA_PREFSRC in found else "",
    )


def _gateway(family: int, hop: Mapping[int, bytes]) -> str:
    """``RTA_GATEWAY``, or ``RTA_VIA``: an address of the other family."""
    if gateway := hop.get(_RTA_GATEWAY):
        return address_text(family, gateway) if any(gateway) else ""
    via = hop.get(_RTA_VIA, b"")
    return address_text(int.from_bytes(via[:2], "little"), via[2:]) if via else ""


class Path(NamedTuple):
    """How the kernel would send to an address, by policy rules too. ``mtu`` 0: the link's. ``local``: to itself."""

    interface: str
    gateway: str = ""
    source: str = ""
    mtu: int = 0
    local: bool = False


def route_get(sock: RouteSocket, address: str, *, mark: int = 0, source: str = "", interface: str = "") -> Path | None:
    """The path to ``address`` for a packet with this mark, source and outgoing interface; None: there is none."""
    return routes_get(sock, [address], mark=mark, source=source, interface=interface)[address]


def routes_get(
    sock: RouteSocket, addresses: Iterable[str], *, mark: int = 0, source: str = "", interface: str = ""
) -> dict[str, Path | None]:
    """``route_get`` for many addresses, a few hundred in a send."""
    wanted = list(dict.fromkeys(addresses))
    index = socket.if_nametoindex(interface) if interface else 0
    requests = [Request(rtnetlink.GETROUTE, 0, _question(address, mark, source, index)) for address in wanted]
    replies: list[Reply] = []
    for at in range(0, len(requests), _QUESTIONS):
        replies += sock.ask(requests[at : at + _QUESTIONS])
    names: dict[int, str] = {link.ifindex: link.name for link in read_links(sock)} if wanted else {}
    paths: dict[str, Path | None] = {}
    for address, reply in zip(wanted, replies, strict=True):
        entry = _entry(reply.bodies[0]) if reply.bodies else None
        if entry is None or entry.type not in (UNICAST, LOCAL):
            paths[address] = None
            continue
        name = names.get(entry.ifindex, "")
        paths[address] = Path(name, entry.gateway, entry.source, entry.mtu, entry.type == LOCAL)
    return paths


def _question(address: str, mark: int, source: str, index: int) -> bytes:
    parsed = ip_address(address)
    body = _HEADER.pack(
        FAMILY[parsed.version], parsed.max_prefixlen, parsed.max_prefixlen if source else 0, 0, 0, 0, 0, 0, 0
    )
    body += attribute(_RTA_DST, parsed.packed)
    if source:
        body += attribute(_RTA_SRC, ip_address(source).packed)
    if mark:
        body += attribute(_RTA_MARK, struct.pack("=I", mark))
    return body + attribute(_RTA_OIF, struct.pack("=I", index)) if index else body


class RoutesTable:
    """Our routes, by family, table and destination."""

    def __init__(self, sock: RouteSocket) -> None:
        self._socket = sock

    def read(self, keys: Iterable[RouteKey] | None = None) -> dict[RouteKey, RouteRow]:
        """Ours only. NetlinkError when the kernel refuses the dump."""
        wanted = None if keys is None else set(keys)
        names = {link.ifindex: link.name for link in read_links(self._socket)}
        rows = {}
        for version, family in FAMILY.items():
            for entry in read_routes(self._socket, family, protocol=ROUTE_PROTOCOL):
                if entry.protocol != ROUTE_PROTOCOL or entry.table not in _OUR_TABLES or entry.type != UNICAST:
                    continue
                destination = "default" if entry.destination.endswith("/0") else entry.destination
                key = RouteKey(version, entry.table, destination)
                if wanted is None or key in wanted:
                    onlink = entry.flags & _F_ONLINK != 0
                    rows[key] = RouteRow(entry.gateway, names.get(entry.ifindex, ""), onlink)
        return rows

    def write(self, changes: Sequence[Change[RouteKey, RouteRow]]) -> list[Outcome[RouteKey]]:
        """As ``Table.write``. The kernel deletes by protocol and refuses a second route, so foreign ones stay."""
        if not changes:
            return []
        indices = {link.name: link.ifindex for link in read_links(self._socket)}
        tried = [change for change in changes if change.new is None or change.new.interface in indices]
        replies = iter(self._socket.exchange([_request(change, indices) for change in tried]))
        return [
            _outcome(change, next(replies))
            if change.new is None or change.new.interface in indices
            else Outcome(
                change.key, Verdict.FAILED, f"{_words(change.key)}: there is no interface {change.new.interface}"
            )
            for change in changes
        ]


def _request(change: Change[RouteKey, RouteRow], indices: Mapping[str, int]) -> Request:
    key, row = change.key, change.new
    network = ip_network(("0.0.0.0/0", "::/0")[key.family == 6] if key.destination == "default" else key.destination)
    fields = {"family": FAMILY[key.family], "dst_len": network.prefixlen, "proto": ROUTE_PROTOCOL}
    attached: list[tuple[str, str | int]] = [("RTA_TABLE", key.table)]
    if network.prefixlen:
        attached.append(("RTA_DST", str(network.network_address)))
    if row is None:
        fields["scope"] = _SCOPE_ANY
        return Request(rtnetlink.DELROUTE, 0, rtnetlink.route_message(fields, attached))
    attached.append(("RTA_OIF", indices[row.interface]))
    if row.gateway:
        attached.append(("RTA_GATEWAY", row.gateway))
    fields["type"] = UNICAST
    fields["scope"] = _SCOPE_UNIVERSE if row.gateway or key.family == 6 else _SCOPE_LINK
    fields["flags"] = _F_ONLINK if row.onlink else 0
    flags = rtnetlink.F_CREATE | (rtnetlink.F_EXCL if change.old is None else rtnetlink.F_REPLACE)
    return Request(rtnetlink.NEWROUTE, flags, rtnetlink.route_message(fields, attached))


def _outcome(change: Change[RouteKey, RouteRow], reply: Reply) -> Outcome[RouteKey]:
    key = change.key
    if change.new is None:
        return outcome_of(key, reply, f"{_words(key)} cannot be deleted", (errno.ESRCH, errno.ENOENT))
    if reply.error == errno.EEXIST:
        message = f"{_words(key)} is there already and not ours: delete it (ip route delete … table {key.table})"
        return Outcome(key, Verdict.FOREIGN, message)
    via = f" via {change.new.gateway}" if change.new.gateway else ""
    return outcome_of(key, reply, f"{_words(key)}{via} on {change.new.interface} cannot be added")


def _words(key: RouteKey) -> str:
    return f"IPv{key.family} route {key.destination} in table {key.table}"
