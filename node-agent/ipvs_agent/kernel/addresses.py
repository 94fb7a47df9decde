"""Addresses of ours: host prefixes that carry ``ADDRESS_PROTOCOL``, and whatever sits on links of ours.

There may be 10,000 on one link: messages are packed and read with ``struct``. Kernel: ``net/ipv4/devinet.c``,
``net/ipv6/addrconf.c``, ``include/uapi/linux/if_addr.h``.

IPv6 addresses skip duplicate address detection (they must answer at once; who else has them is asked before, see
``kernel.announce``) and get no route of their own besides the local one.
"""

import errno
import os
import struct
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cached_property
from ipaddress import ip_address
from itertools import takewhile
from typing import NamedTuple

from ipvs_agent.kernel import rtnetlink
from ipvs_agent.kernel.attributes import Reader, attribute
from ipvs_agent.kernel.links import LinkEntry, read_links
from ipvs_agent.kernel.netlink import Reply, Request
from ipvs_agent.kernel.rtnetlink import AF_INET, AF_INET6, FAMILY, RouteSocket, address_text
from ipvs_agent.rows import ADDRESS_PROTOCOL, AddressKey, AddressRow
from ipvs_agent.table import Change, Outcome, Verdict

_HEADER = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS, _IFA_PROTO = 1, 2, 6, 8, 11
_F_NODAD, _F_DEPRECATED, _F_NOPREFIXROUTE = 0x02, 0x20, 0x200
_FOREVER = 0xFFFF_FFFF
_READER = Reader([((_IFA_ADDRESS,), "s"), ((_IFA_LOCAL,), "s"), ((_IFA_FLAGS,), "I"), ((_IFA_PROTO,), "B")])
_HOST_PREFIX = {AF_INET: 32, AF_INET6: 128}


class AddressEntry(NamedTuple):
    """An address as the kernel tells it. ``protocol``: ``IFA_PROTO``, 0 without."""

    ifindex: int
    family: int
    address: bytes
    prefix_length: int
    flags: int
    protocol: int

    @property
    def marked(self) -> bool:
        return self.protocol == ADDRESS_PROTOCOL

    @property
    def text(self) -> str:
        return address_text(self.family, self.address)


def read_addresses(sock: RouteSocket, index: int = 0) -> list[AddressEntry]:
    """Every address, of both families; ``index`` other than 0: of that link. 10,000 take 40 ms."""
    entries = []
    for body in sock.dump(rtnetlink.GETADDR, _HEADER.pack(0, 0, 0, 0, index)):
        family, prefix_length, _, _, at = _HEADER.unpack_from(body)
        if family in _HOST_PREFIX and index in (0, at):
            address, local, flags, protocol = _READER.read(body[_HEADER.size :])
            entries.append(AddressEntry(at, family, local or address, prefix_length, flags or 0, protocol or 0))
    return entries


def is_ours(entry: AddressEntry, on_our_link: bool) -> bool:
    """Marked, or a host prefix on a link of ours; a link-local address there is the kernel's."""
    if entry.prefix_length != _HOST_PREFIX[entry.family]:
        return False
    return entry.marked or (on_our_link and entry.address[:2] != b"\xfe\x80")


def _message(index: int, key: AddressKey, row: AddressRow | None) -> bytes:
    """``row`` None: of a deletion."""
    parsed = ip_address(key.address)
    packed, family = parsed.packed, FAMILY[parsed.version]
    body = _HEADER.pack(family, len(packed) * 8, 0, 0, index)
    body += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    if row is None:
        return body
    if family == AF_INET6:
        body += attribute(_IFA_FLAGS, struct.pack("=I", _F_NODAD | _F_NOPREFIXROUTE))
    if row.deprecated:
        body += attribute(_IFA_CACHEINFO, struct.pack("=IIII", 0, _FOREVER, 0, 0))
    return body + attribute(_IFA_PROTO, bytes([ADDRESS_PROTOCOL]))


def marks(entries: Iterable[AddressEntry], release: str) -> bool:
    """Whether the kernel can mark addresses (``IFA_PROTO``, Linux 5.18).

    One that can has marked those of ``lo`` with its own numbers; ``release`` (``uname -r``) is for a host without them.
    """
    if any(entry.protocol for entry in entries):
        return True
    if any(entry.text in ("127.0.0.1", "::1") for entry in entries):
        return False
    major, minor, *_ = (int("".join(takewhile(str.isdigit, part)) or 0) for part in f"{release}..".split("."))
    return (major, minor) >= (5, 18)


class AddressesTable:
    """Addresses of ours by interface and address."""

    def __init__(self, sock: RouteSocket) -> None:
        self._socket = sock

    @cached_property
    def can_mark(self) -> bool:
        """See ``marks``. Without it, only VIPs on links of ours can be told from an administrator's addresses."""
        return marks(read_addresses(self._socket), os.uname().release)

    def _entries(self, names: Iterable[str] | None) -> tuple[dict[str, LinkEntry], list[AddressEntry]]:
        links = {link.name: link for link in read_links(self._socket)}
        if names is None:
            return links, read_addresses(self._socket)
        indices = {links[name].ifindex for name in names if name in links}
        return links, [entry for index in indices for entry in read_addresses(self._socket, index)]

    def read(self, keys: Iterable[AddressKey] | None = None) -> dict[AddressKey, AddressRow]:
        """Ours only. NetlinkError when the kernel refuses the dump."""
        wanted = None if keys is None else set(keys)
        links, entries = self._entries(None if wanted is None else {key.interface for key in wanted})
        by_index = {link.ifindex: link for link in links.values()}
        rows = {}
        for entry in entries:
            link = by_index.get(entry.ifindex)
            if link is not None and is_ours(entry, link.ours):
                key = AddressKey(link.name, entry.text)
                if wanted is None or key in wanted:
                    rows[key] = AddressRow(entry.flags & _F_DEPRECATED != 0)
        return rows

    def foreign(self, keys: Iterable[AddressKey]) -> set[AddressKey]:
        """Those of ``keys`` that are on their interface by somebody else's hand, with whatever prefix length."""
        wanted = set(keys)
        links, entries = self._entries({key.interface for key in wanted})
        return wanted & _foreign(links, entries)

    def write(self, changes: Sequence[Change[AddressKey, AddressRow]]) -> list[Outcome[AddressKey]]:
        """As ``Table.write``. What is on the interfaces is read first, so that nothing foreign is touched."""
        if not changes:
            return []
        links, entries = self._entries({change.key.interface for change in changes})
        foreign = _foreign(links, entries)
        refused = [self._refusal(change, links, foreign) for change in changes]
        accepted = [change for change, reason in zip(changes, refused, strict=True) if reason is None]
        requests = [_request(change, links[change.key.interface].ifindex) for change in accepted]
        replies = iter(self._socket.exchange(requests))
        return [reason or _outcome(change, next(replies)) for change, reason in zip(changes, refused, strict=True)]

    def _refusal(
        self, change: Change[AddressKey, AddressRow], links: Mapping[str, LinkEntry], foreign: Set[AddressKey]
    ) -> Outcome[AddressKey] | None:
        """Why a change is not even tried; None: it is."""
        key = change.key
        if key.interface not in links:
            if change.new is None:
                return Outcome(key, Verdict.DONE)
            return Outcome(key, Verdict.FAILED, f"{key.address}: there is no interface {key.interface}")
        if key in foreign:
            return Outcome(
                key,
                Verdict.FOREIGN,
                f"{key.address} is on {key.interface} already and not ours: remove it there "
                f"(ip address delete {key.address}/… dev {key.interface}) or choose another address",
            )
        if change.new is not None and not links[key.interface].ours and not self.can_mark:
            return Outcome(
                key,
                Verdict.FAILED,
                f"{key.address} cannot go on {key.interface}: this kernel ({os.uname().release}) cannot mark addresses "
                "as ours (IFA_PROTO, Linux 5.18). Use a newer kernel, or an announcement (bgp, none) that keeps VIPs "
                "on a link of our own",
            )
        return None


def _foreign(links: Mapping[str, LinkEntry], entries: Iterable[AddressEntry]) -> set[AddressKey]:
    by_index = {link.ifindex: link for link in links.values()}
    return {
        AddressKey(link.name, entry.text)
        for entry in entries
        if (link := by_index.get(entry.ifindex)) is not None and not is_ours(entry, link.ours)
    }


def _request(change: Change[AddressKey, AddressRow], index: int) -> Request:
    if change.new is None:
        return Request(rtnetlink.DELADDR, 0, _message(index, change.key, None))
    flags = rtnetlink.F_CREATE | (rtnetlink.F_EXCL if change.old is None else rtnetlink.F_REPLACE)
    return Request(rtnetlink.NEWADDR, flags, _message(index, change.key, change.new))


def _outcome(change: Change[AddressKey, AddressRow], reply: Reply) -> Outcome[AddressKey]:
    """Gone already is as good as deleted; there already (a lost answer, a race) is for the next read to judge."""
    key = change.key
    if change.new is None:
        what, harmless = "cannot be deleted", (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO)
        return rtnetlink.outcome_of(key, reply, f"{key.address} on {key.interface} {what}", harmless)
    if reply.error == errno.EEXIST:
        return Outcome(key, Verdict.UNKNOWN, f"{key.address} is on {key.interface} already")
    return rtnetlink.outcome_of(key, reply, f"{key.address} cannot be added to {key.interface}")
