"""Routing netlink: message types, values of attributes, and pyroute2's message formats behind typed functions.

Requests go through ``RequestSocket`` (``kernel.netlink``): many in a send, with a fence, errors in the kernel's words.
What is read often or by the ten thousand (every dump, addresses, neighbours) is packed and unpacked with ``struct``;
links, routes and rules, which have many attributes and are written seldom, are packed by pyroute2. It is imported at
the first such write, since it takes 10 MiB and, on a slow machine, most of a second: an agent that finds everything in
place writes none.

``rtnetlink(7)``, ``include/uapi/linux/rtnetlink.h``.
"""

import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from ipaddress import IPv6Address
from typing import Any

from ipvs_agent.kernel.attributes import KIND_MASK
from ipvs_agent.kernel.netlink import UNKNOWN, Reply, RequestSocket
from ipvs_agent.table import Outcome, Verdict

NETLINK_ROUTE = 0
AF_INET, AF_INET6 = 2, 10
FAMILY = {4: AF_INET, 6: AF_INET6}
VERSION = {AF_INET: 4, AF_INET6: 6}

NEWLINK, DELLINK, GETLINK, SETLINK = 16, 17, 18, 19
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
NEWRULE, DELRULE, GETRULE = 32, 33, 34

F_REPLACE, F_EXCL, F_CREATE = 0x100, 0x200, 0x400
"""Of requests that make something: what is there gives way; what is there is an error; make what is not there."""

_ATTRIBUTE = struct.Struct("=HH")
_SOL_NETLINK, _STRICT_CHECK = 270, 12
_LITTLE = struct.pack("=H", 1) == b"\x01\x00"


class RouteSocket(RequestSocket):
    """What everything in this package takes; the kernel gives only those entries of a dump that its request names."""

    def _open(self) -> socket.socket:
        opened = super()._open()
        with suppress(OSError):  # before Linux 4.20 everything comes; whoever asks filters once more
            opened.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
        return opened


def route_socket() -> RouteSocket:
    """In the calling thread's network namespace."""
    return RouteSocket(NETLINK_ROUTE)


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from ``offset`` to the end by type, without its flag bits; the last of equal ones counts."""
    found = {}
    end = len(data)
    unpack = _ATTRIBUTE.unpack_from
    while offset + 4 <= end:
        length, kind = unpack(data, offset)
        if length < 4:
            break
        found[kind & KIND_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def number(payload: bytes | None, default: int = 0) -> int:
    """An integer attribute of any size in the host's byte order; ``default`` where there is none."""
    return int.from_bytes(payload, "little" if _LITTLE else "big") if payload else default


def text(payload: bytes | None) -> str:
    """A string attribute; names of links may hold any bytes."""
    return payload.rstrip(b"\0").decode(errors="surrogateescape") if payload else ""


def address_text(family: int, packed: bytes) -> str:
    """Canonical text of an address: as ``ipaddress`` writes it, ten times faster."""
    written = socket.inet_ntop(family, packed)
    return str(IPv6Address(packed)) if family == AF_INET6 and "." in written else written


def outcome_of(key: Any, reply: Reply, what: str, harmless: Sequence[int] = ()) -> Outcome[Any]:
    """What a reply means for a key: done, also for the ``harmless`` errors; else ``what`` could not be done and why."""
    if reply.error == 0 or reply.error in harmless:
        return Outcome(key, Verdict.DONE)
    return Outcome(key, Verdict.UNKNOWN if reply.error == UNKNOWN else Verdict.FAILED, f"{what}: {reply.words}")


Attributes = Sequence[tuple[str, Any]]
"""Attributes by the kernel's names; values as pyroute2 takes them: text for addresses and names, numbers, nests."""


def nested(attached: Attributes) -> dict[str, Any]:
    """The value of an attribute that holds attributes."""
    return {"attrs": list(attached)}


@cache
def _formats() -> Mapping[str, Any]:
    """pyroute2's message formats, imported when the first is needed (see the module's text)."""
    from pyroute2.netlink.rtnl.fibmsg import fibmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    return {"link": ifinfmsg, "route": rtmsg, "rule": fibmsg}


def _pack(name: str, fields: Mapping[str, int], attached: Attributes) -> bytes:
    message = _formats()[name]()
    for field, value in fields.items():
        message[field] = value
    message["attrs"] = list(attached)
    message.encode()
    return bytes(message.data[16 : message["header"]["length"]])


def link_message(fields: Mapping[str, int], attached: Attributes) -> bytes:
    """``struct ifinfomsg`` (family, index, flags, change) and ``IFLA_*``."""
    return _pack("link", fields, attached)


def route_message(fields: Mapping[str, int], attached: Attributes) -> bytes:
    """``struct rtmsg`` (family, dst_len, table, proto, scope, type, flags) and ``RTA_*``."""
    return _pack("route", fields, attached)


def rule_message(fields: Mapping[str, int], attached: Attributes) -> bytes:
    """``struct fib_rule_hdr`` (family, action, …) and ``FRA_*``."""
    return _pack("rule", fields, attached)
