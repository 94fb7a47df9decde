"""Our links: the dummy that carries silent VIPs, and tunnels from exactly one director each.

A link of ours carries the alias ``LINK_ALIAS`` for people and the device group ``LINK_GROUP``, which the kernel sets in
the same step that makes the link: an agent that dies between making a link and naming it finds its own link again.
A link of our name with neither is somebody else's and left alone.

Kernel: ``net/core/rtnetlink.c``, ``net/ipv4/{ipip,ip_gre,ip_tunnel}.c``, ``net/ipv6/{ip6_tunnel,ip6_gre}.c``.
"""

import errno
import struct
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

from ipvs_agent.kernel import rtnetlink
from ipvs_agent.kernel.attributes import attribute
from ipvs_agent.kernel.netlink import Reply, Request
from ipvs_agent.kernel.rtnetlink import AF_INET, AF_INET6, RouteSocket, attributes, nested, number, outcome_of, text
from ipvs_agent.rows import LINK_ALIAS, TUNNEL_PREFIX, VIP_LINK, LinkRow
from ipvs_agent.table import Change, Outcome, Verdict

LINK_GROUP = 11800
"""``IFLA_GROUP`` of our links, see above; ``/etc/iproute2/group`` names none by default."""

IFF_UP, IFF_LOOPBACK, IFF_NOARP = 0x1, 0x8, 0x80
_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_GROUP = 1, 3, 4, 18, 20, 27
_INFO_KIND, _INFO_DATA = 1, 2
_ENCAP_GUE = 2
_CSUM6 = 2  # TUNNEL_ENCAP_FLAG_CSUM6: UDP over IPv6 has a checksum, RFC 6935 or not
_NO_ENCAP_LIMIT = 1  # IP6_TNL_F_IGN_ENCAP_LIMIT: no destination option in front of what is tunnelled
_IPPROTO_IPIP, _IPPROTO_ANY = 4, 0
_ADDRESS_GENERATION_NONE = 1  # IN6_ADDR_GEN_MODE_NONE
_INFO = struct.Struct("=BxHiII")


class _Tunnel(NamedTuple):
    """A kind of tunnel: pyroute2's prefix for its attributes, numbers of some (``include/uapi/linux/if_tunnel.h``),
    the settings that all of ours have (number and value by name), the kernel module that brings it."""

    prefix: str
    local: int
    remote: int
    encap_type: int
    encap_port: int
    settings: Mapping[str, tuple[int, int]]
    module: str


_IPIP = {"TTL": (4, 64), "PMTUDISC": (10, 1), "PROTO": (9, _IPPROTO_IPIP)}
_GRE = {"TTL": (8, 64), "PMTUDISC": (10, 1)}
_IP6TNL = {"TTL": (4, 64), "PROTO": (9, _IPPROTO_ANY), "FLAGS": (8, _NO_ENCAP_LIMIT)}
_IP6GRE = {"TTL": (8, 64), "FLAGS": (13, _NO_ENCAP_LIMIT)}
_TUNNELS = {
    "ipip": _Tunnel("IPIP", 2, 3, 15, 18, _IPIP, "ipip"),
    "gre": _Tunnel("GRE", 6, 7, 14, 17, _GRE, "ip_gre"),
    "ip6tnl": _Tunnel("IP6TNL", 2, 3, 15, 18, _IP6TNL, "ip6_tunnel"),
    "ip6gre": _Tunnel("IP6GRE", 6, 7, 14, 17, _IP6GRE, "ip6_gre"),
}


class LinkEntry(NamedTuple):
    """A link as the kernel tells it. ``kind``: empty for hardware; ``data``: the kind's own attributes, packed."""

    ifindex: int
    name: str
    type: int
    flags: int
    mac: str
    mtu: int
    alias: str
    group: int
    kind: str
    data: bytes

    @property
    def ours(self) -> bool:
        """One of our names with one of our marks."""
        named = self.name == VIP_LINK or self.name.startswith(TUNNEL_PREFIX)
        return named and (self.alias == LINK_ALIAS or self.group == LINK_GROUP)


def read_links(sock: RouteSocket) -> list[LinkEntry]:
    """Every link of this network namespace."""
    request = _INFO.pack(0, 0, 0, 0, 0) + attribute(29, struct.pack("=I", _SKIP_STATS))  # IFLA_EXT_MASK
    return [_entry(body) for body in sock.dump(rtnetlink.GETLINK, request)]


def _entry(body: bytes) -> LinkEntry:
    _, kind, index, flags, _ = _INFO.unpack_from(body)
    found = attributes(body, _INFO.size)
    info = attributes(found.get(_IFLA_LINKINFO, b""))
    return LinkEntry(
        index,
        text(found.get(_IFLA_IFNAME)),
        kind,
        flags,
        found.get(_IFLA_ADDRESS, b"").hex(":"),
        number(found.get(_IFLA_MTU)),
        text(found.get(_IFLA_IFALIAS)),
        number(found.get(_IFLA_GROUP)),
        text(info.get(_INFO_KIND)),
        info.get(_INFO_DATA, b""),
    )


def row_of(entry: LinkEntry) -> LinkRow:
    """What a link of ours is. ``intact`` False: down, without its alias, or with other settings than we give it."""
    intact = entry.flags & IFF_UP != 0 and entry.alias == LINK_ALIAS and entry.group == LINK_GROUP
    tunnel = _TUNNELS.get(entry.kind)
    if tunnel is None:
        return LinkRow(entry.kind, intact=intact and entry.flags & IFF_NOARP != 0)
    data = attributes(entry.data)
    for name, (kind, value) in tunnel.settings.items():
        found = number(data.get(kind))
        intact &= (found & value if name == "FLAGS" else found) == value
    encap = number(data.get(tunnel.encap_type))
    port = int.from_bytes(data.get(tunnel.encap_port, b""), "big")
    return LinkRow(
        entry.kind,
        _outer(data.get(tunnel.local, b"")),
        _outer(data.get(tunnel.remote, b"")),
        port if encap == _ENCAP_GUE else 0,
        intact=intact and encap in (0, _ENCAP_GUE),
    )


def _outer(packed: bytes) -> str:
    """An outer address; empty for the unspecified one, which means any."""
    if not any(packed):
        return ""
    return rtnetlink.address_text(AF_INET if len(packed) == 4 else AF_INET6, packed)


def _link_info(row: LinkRow) -> tuple[str, dict[str, Any]]:
    """``IFLA_LINKINFO`` for a row."""
    attached: list[tuple[str, Any]] = [("IFLA_INFO_KIND", row.kind)]
    tunnel = _TUNNELS.get(row.kind)
    if tunnel is not None:
        values: dict[str, int | str] = {name: value for name, (_, value) in tunnel.settings.items()}
        values |= {name: end for name, end in (("LOCAL", row.local), ("REMOTE", row.remote)) if end}
        gue = row.encap_port != 0
        over_ipv6 = gue and ip_address(row.remote or row.local).version == 6
        values |= {
            "ENCAP_TYPE": _ENCAP_GUE if gue else 0,
            "ENCAP_FLAGS": _CSUM6 if over_ipv6 else 0,
            "ENCAP_SPORT": 0,
            "ENCAP_DPORT": row.encap_port,
        }
        data = [(f"IFLA_{tunnel.prefix}_{name}", value) for name, value in values.items()]
        attached.append(("IFLA_INFO_DATA", nested(data)))
    return ("IFLA_LINKINFO", nested(attached))


def _make(name: str, row: LinkRow) -> Request:
    attached = [("IFLA_IFNAME", name), ("IFLA_GROUP", LINK_GROUP), _link_info(row)]
    return Request(rtnetlink.NEWLINK, rtnetlink.F_CREATE | rtnetlink.F_EXCL, rtnetlink.link_message({}, attached))


def _quiet(index: int) -> Request:
    """No IPv6 link-local address, which the kernel would make when the link comes up."""
    mode = nested([("IFLA_INET6_ADDR_GEN_MODE", _ADDRESS_GENERATION_NONE)])
    attached = [("IFLA_AF_SPEC", nested([("AF_INET6", mode)]))]
    return Request(rtnetlink.SETLINK, 0, rtnetlink.link_message({"index": index}, attached))


def _settings(index: int, row: LinkRow) -> list[Request]:
    """Everything that a link of ours has besides what it was made with, marks first, up last."""
    marks = [("IFLA_IFALIAS", LINK_ALIAS), ("IFLA_GROUP", LINK_GROUP)]
    flags = IFF_UP | (IFF_NOARP if row.kind == "dummy" else 0)
    requests = [
        Request(rtnetlink.SETLINK, 0, rtnetlink.link_message({"index": index}, marks)),
        Request(rtnetlink.SETLINK, 0, rtnetlink.link_message({"index": index, "flags": flags, "change": flags}, [])),
    ]
    if row.kind in _TUNNELS:
        again = rtnetlink.link_message({"index": index}, [_link_info(row)])
        requests.insert(1, Request(rtnetlink.NEWLINK, 0, again))
    return requests


class LinksTable:
    """Links of ours by name. Another kind or other ends delete a link and make it anew; damage is mended in place."""

    def __init__(self, sock: RouteSocket) -> None:
        self._socket = sock

    def read(self, keys: Iterable[str] | None = None) -> dict[str, LinkRow]:
        """Ours only. OSError when the kernel refuses the dump."""
        wanted = None if keys is None else set(keys)
        return {
            entry.name: row_of(entry)
            for entry in read_links(self._socket)
            if entry.ours and (wanted is None or entry.name in wanted)
        }

    def write(self, changes: Sequence[Change[str, LinkRow]]) -> list[Outcome[str]]:
        """As ``Table.write``; what is there is looked at before each change, so that nothing foreign is touched."""
        return [self._write(change) for change in changes]

    def _write(self, change: Change[str, LinkRow]) -> Outcome[str]:
        links = {entry.name: entry for entry in read_links(self._socket)}
        there = links.get(change.key)
        if there is not None and not there.ours:
            return Outcome(
                change.key,
                Verdict.FOREIGN,
                f"link {change.key} ({there.kind or 'hardware'}) is there already and not ours: "
                f"remove or rename it (ip link delete {change.key})",
            )
        if change.new is None:
            return self._delete(change.key, there) if there is not None else Outcome(change.key, Verdict.DONE)
        if there is not None and row_of(there)._replace(intact=True) == change.new:
            return self._set_up(change.key, there.ifindex, change.new)
        if there is not None and (gone := self._delete(change.key, there)).verdict is not Verdict.DONE:
            return gone
        return self._add(change.key, change.new, links.values())

    def _delete(self, name: str, there: LinkEntry) -> Outcome[str]:
        body = _INFO.pack(0, 0, there.ifindex, 0, 0)
        (reply,) = self._socket.exchange([Request(rtnetlink.DELLINK, 0, body)])
        return outcome_of(name, reply, f"link {name} cannot be deleted", (errno.ENODEV,))

    def _set_up(self, name: str, index: int, row: LinkRow) -> Outcome[str]:
        self._socket.exchange([_quiet(index)])  # a kernel without IPv6 refuses, and needs it not
        replies = self._socket.exchange(_settings(index, row))
        refused = next((reply for reply in replies if reply.error), Reply())
        return outcome_of(name, refused, f"link {name} cannot be set up")

    def _add(self, name: str, row: LinkRow, others: Iterable[LinkEntry]) -> Outcome[str]:
        (made,) = self._socket.exchange([_make(name, row)])
        if made.error == 0:
            index = next((entry.ifindex for entry in read_links(self._socket) if entry.name == name), 0)
            return self._set_up(name, index, row)
        if made.error == errno.EEXIST:
            return _taken(name, row, [entry for entry in others if entry.kind == row.kind and _same_ends(entry, row)])
        if made.error in (errno.EOPNOTSUPP, errno.EINVAL) and (missing := _missing_module(row, made)):
            return Outcome(name, Verdict.FAILED, f"link {name} cannot be made: {missing}")
        return outcome_of(name, made, f"{row.kind} link {name} cannot be made")


def _taken(name: str, row: LinkRow, same: Sequence[LinkEntry]) -> Outcome[str]:
    """The kernel allows one link of a kind for two outer addresses, whatever it encapsulates in besides."""
    ours = bool(same) and all(entry.ours for entry in same)
    return Outcome(
        name,
        Verdict.FAILED if ours else Verdict.FOREIGN,
        f"link {name} cannot be made: {row.kind} link {' '.join(entry.name for entry in same) or name} has the outer "
        f"addresses {row.local or 'any'} and {row.remote or 'any'} already, and the kernel allows one"
        + ("" if ours else ": remove it"),
    )


def _same_ends(entry: LinkEntry, row: LinkRow) -> bool:
    found = row_of(entry)
    return (found.local, found.remote) == (row.local, row.remote)


def _missing_module(row: LinkRow, reply: Reply) -> str:
    """What to load when the kernel lacks a kind of link or of encapsulation; empty when it is something else."""
    if reply.error == errno.EOPNOTSUPP:
        module = _TUNNELS[row.kind].module if row.kind in _TUNNELS else row.kind
        return f"this kernel has no {row.kind} links: load the module (modprobe {module}) on the host"
    if row.encap_port:
        return f"{reply.words}: GUE needs the module fou (IPv6: fou6 too): modprobe fou, modprobe fou6 on the host"
    return ""
