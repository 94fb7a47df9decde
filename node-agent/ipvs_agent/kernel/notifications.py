"""What the kernel tells unasked: which tables somebody has changed. No more is learnt: the table is read again.

Sockets of their own, to be watched by an event loop, never used for requests. IPVS tells nothing, and of switches only
forwarding and rp_filter: an audit finds the rest. ``include/uapi/linux/{rtnetlink,netconf}.h``,
``include/uapi/linux/netfilter/nfnetlink.h``.
"""

import errno
import select
import socket
import struct
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress

from ipvs_agent.kernel import rtnetlink
from ipvs_agent.kernel.routes import LOCAL_TABLE
from ipvs_agent.kernel.rtnetlink import AF_INET, AF_INET6, NETLINK_ROUTE, address_text, attributes

NFTABLES, NEIGHBOURS, LOST = "elements", "neighbours", "lost"
TABLES = frozenset({"links", "addresses", "routes", "rules", "sysctls", NFTABLES})
"""Tables that the kernel tells about, named as in ``rows.KernelState``."""

_NETLINK_NETFILTER, _NFTABLES_GROUP = 12, 7
_GROUPS = (1, 3, 5, 7, 8, 9, 11, 19, 24, 25)
"""``RTNLGRP_``: LINK, NEIGH; IPV4_ IFADDR, ROUTE, RULE; IPV6_ IFADDR, ROUTE, RULE; IPV4_, IPV6_NETCONF."""

_NEWNETCONF, _DELNETCONF = 80, 81
_TABLE_OF = {
    rtnetlink.NEWLINK: "links",
    rtnetlink.DELLINK: "links",
    rtnetlink.NEWADDR: "addresses",
    rtnetlink.DELADDR: "addresses",
    rtnetlink.NEWROUTE: "routes",
    rtnetlink.DELROUTE: "routes",
    rtnetlink.NEWRULE: "rules",
    rtnetlink.DELRULE: "rules",
    _NEWNETCONF: "sysctls",
    _DELNETCONF: "sysctls",
}
_NEIGHBOUR_HEADER, _NDA_DST = 12, 1
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 1 << 20
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_F_CLONED = 0x200


class Notifications:
    """In the network namespace of the thread that makes it. OSError where the kernel has no netlink."""

    def __init__(self) -> None:
        self._routing = _listen(NETLINK_ROUTE, _GROUPS)
        self._netfilter: socket.socket | None = None
        with suppress(OSError):  # a kernel without nfnetlink has no nftables to tell about
            self._netfilter = _listen(_NETLINK_NETFILTER, (_NFTABLES_GROUP,))
        self._both = select.epoll()
        for opened in (self._routing, self._netfilter):
            if opened is not None:
                self._both.register(opened.fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        """A descriptor that is readable when the kernel has told something."""
        return self._both.fileno()

    def close(self) -> None:
        self._both.close()
        self._routing.close()
        if self._netfilter is not None:
            self._netfilter.close()

    def drain(self, neighbours: Container[str] = ()) -> set[str]:
        """Names of the tables that were changed since the last time, without waiting.

        ``NEIGHBOURS`` where the entry of one of the addresses ``neighbours`` changed. ``LOST``, with every other name,
        when more was told than the sockets could hold.
        """
        changed: set[str] = set()
        for message in _received(self._routing):
            if message is None:
                return self._lost()
            changed |= _meaning(*message, neighbours)
        if self._netfilter is not None:
            for message in _received(self._netfilter):
                if message is None:
                    return self._lost()
                changed.add(NFTABLES)
        return changed

    def _lost(self) -> set[str]:
        """What is still waiting says no more than this."""
        for opened in (self._routing, self._netfilter):
            if opened is not None:
                for _ in _received(opened):
                    pass
        return {*TABLES, NEIGHBOURS, LOST}


def _listen(protocol: int, groups: Sequence[int]) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    try:
        with suppress(PermissionError):  # the host's default size then; what does not fit is told as lost
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        opened.bind((0, 0))
        for group in groups:
            opened.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except OSError:
        opened.close()
        raise
    return opened


def _received(opened: socket.socket) -> Iterator[tuple[int, bytes] | None]:
    """Type and body of every message that waits; None where some were lost."""
    while True:
        try:
            datagram = opened.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as failure:
            if failure.errno != errno.ENOBUFS:
                raise
            yield None
            continue
        at, end = 0, len(datagram)
        while at + 16 <= end:
            length, kind, _, _, _ = _HEADER.unpack_from(datagram, at)
            yield kind, datagram[at + 16 : at + length]
            at += max((length + 3) & ~3, 16)


def _meaning(kind: int, body: bytes, neighbours: Container[str]) -> set[str]:
    """What one message of routing netlink has changed."""
    if kind in (rtnetlink.NEWNEIGH, rtnetlink.DELNEIGH):
        packed = attributes(body, _NEIGHBOUR_HEADER).get(_NDA_DST)
        known = packed is not None and body[0] in (AF_INET, AF_INET6) and address_text(body[0], packed) in neighbours
        return {NEIGHBOURS} if known else set()
    if kind in (rtnetlink.NEWROUTE, rtnetlink.DELROUTE):
        _, _, _, _, table, _, _, _, flags = _ROUTE.unpack_from(body)
        if table == LOCAL_TABLE or flags & _F_CLONED:
            return set()  # these come and go with every address, and with packets
    if kind in (rtnetlink.NEWLINK, rtnetlink.DELLINK) and body[0] != socket.AF_UNSPEC:
        return set()  # the same link once more, as bridge or IPv6 see it
    return {_TABLE_OF[kind]} if kind in _TABLE_OF else set()
