"""IPVS services as packed rows.

A **key** is 20 bytes: address family (``AF_INET`` 2, ``AF_INET6`` 10), IP protocol, port (big-endian), address
(16 bytes, IPv4 in the first four). A **row** is the service's head followed by its destinations, each of fixed size and
sorted, so that two rows are equal exactly when the kernel would behave the same. Ten thousand services with ten real
servers are 10 MiB of rows and compare in milliseconds; only what differs is unpacked.
"""

import struct
from collections.abc import Iterable
from ipaddress import IPv6Address
from socket import inet_ntop, inet_pton
from typing import NamedTuple

AF_INET, AF_INET6 = 2, 10
IPPROTO = {"TCP": 6, "UDP": 17, "SCTP": 132}
PROTOCOL_NAME = {number: name for name, number in IPPROTO.items()}

FLAG_PERSISTENT, FLAG_HASHED, FLAG_ONE_PACKET, FLAG_FALLBACK, FLAG_PORT = 1, 2, 4, 8, 0x10
"""``include/uapi/linux/ip_vs.h``. ``HASHED`` is the kernel's own and masked out of every row."""

FLAG_ENGINE = 0x8000_0000
"""Not the kernel's: a service was found with a persistence engine (``ipvsadm --pe``). None of ours has one, so a row
with it never equals a wanted one, and writing the wanted head takes the engine off."""

FWD_NAT, FWD_LOCAL, FWD_TUNNEL, FWD_DIRECT = 0, 1, 2, 3
TUNNEL_IPIP, TUNNEL_GUE, TUNNEL_GRE = 0, 1, 2

_KEY = struct.Struct(">BBH16s")
_HEAD = struct.Struct(">16sIIB")
_DESTINATION = struct.Struct(">B16sHBIIIBHB")
KEY_SIZE, HEAD_SIZE, DESTINATION_SIZE = _KEY.size, _HEAD.size, _DESTINATION.size
DESTINATION_KEY_SIZE = struct.calcsize(">B16sH")
_WEIGHT_AT = struct.calcsize(">B16sHB")


class Head(NamedTuple):
    """What a virtual service is, without its real servers.

    ``scheduler``: at most 15 letters; ``flags``: FLAG_*; ``timeout``: persistence, seconds; ``netmask``: persistence
    prefix length (32, 128 without).
    """

    scheduler: str
    flags: int
    timeout: int
    netmask: int


class Destination(NamedTuple):
    """A real server of one service. ``forwarding``: FWD_*; ``upper``/``lower``: connection thresholds, 0 unlimited.

    ``tunnel_flags``: checksum options of GUE and GRE (``IP_VS_TUNNEL_ENCAP_FLAG_*``); 0, none, in all of ours.
    """

    address: str
    port: int
    forwarding: int
    weight: int
    upper: int = 0
    lower: int = 0
    tunnel_type: int = 0
    tunnel_port: int = 0
    tunnel_flags: int = 0


class Key(NamedTuple):
    """``protocol``: TCP, UDP, SCTP, or a number in text where somebody's service has another."""

    protocol: str
    address: str
    port: int


class Activity(NamedTuple):
    """What the kernel counts for one destination.

    Connections: ``active`` (established), ``inactive`` (everything else, UDP always), ``persistent`` (templates),
    ``scheduled`` (all since it was added). Packets and bytes: ``in`` from clients, ``out`` back to them, which only
    NAT sees. The totals are the estimator's snapshots of every two seconds (``ip_vs_est.c``).
    """

    active: int
    inactive: int
    persistent: int
    scheduled: int
    packets_in: int
    packets_out: int
    bytes_in: int
    bytes_out: int

    @property
    def packets(self) -> int:
        """Both ways: what does not move while a destination is quiet."""
        return self.packets_in + self.packets_out


def family_of(packed_key: bytes) -> int:
    """``AF_INET`` or ``AF_INET6``, of a key or a destination."""
    return packed_key[0]


def pack_address(address: str) -> tuple[int, bytes]:
    """Family and 16 bytes of an address in text.

    Raises ValueError for anything else, an IPv6 address with a scope (``fe80::1%eth0``) too: IPVS has no place for it.
    """
    try:
        if ":" in address:
            return AF_INET6, inet_pton(AF_INET6, address)
        return AF_INET, inet_pton(AF_INET, address) + bytes(12)
    except OSError:
        raise ValueError(f"{address!r} is not an IPv4 or IPv6 address (without a scope)") from None


def unpack_address(family: int, packed: bytes) -> str:
    """Canonical text."""
    return inet_ntop(AF_INET, packed[:4]) if family == AF_INET else str(IPv6Address(packed[:16]))


def pack_key(protocol: str, address: str, port: int) -> bytes:
    """The key of a service; ``protocol``: TCP, UDP or SCTP."""
    family, packed = pack_address(address)
    return _KEY.pack(family, IPPROTO[protocol], port, packed)


def unpack_key(key: bytes) -> Key:
    """The key in words."""
    family, protocol, port, address = _KEY.unpack(key)
    return Key(PROTOCOL_NAME.get(protocol) or str(protocol), unpack_address(family, address), port)


def pack_destination(destination: Destination) -> bytes:
    """One destination; struct.error where a number does not fit the kernel's field."""
    family, address = pack_address(destination[0])
    return _DESTINATION.pack(family, address, *destination[1:])


def unpack_destination(packed: bytes) -> Destination:
    """The destination in words."""
    family, address, *rest = _DESTINATION.unpack(packed)
    return Destination(unpack_address(family, address), *rest)


def pack_head(head: Head) -> bytes:
    """The packed head of a row."""
    scheduler, *rest = head
    return _HEAD.pack(scheduler.encode(), *rest)


def unpack_head(row: bytes) -> Head:
    """The head of a row, or a head alone, in words."""
    scheduler, flags, timeout, netmask = _HEAD.unpack_from(row)
    return Head(scheduler.rstrip(b"\0").decode(), flags, timeout, netmask)


def pack_row(head: Head, destinations: Iterable[bytes]) -> bytes:
    """``destinations``: packed; any order, duplicates are the caller's error."""
    return join_row(pack_head(head), destinations)


def join_row(head: bytes, destinations: Iterable[bytes]) -> bytes:
    """A row of a packed head and packed destinations."""
    return head + b"".join(sorted(destinations))


def head_of(row: bytes) -> bytes:
    """The packed head of a row."""
    return row[:HEAD_SIZE]


def destinations_of(row: bytes) -> list[bytes]:
    """The packed destinations of a row, sorted."""
    return [row[at : at + DESTINATION_SIZE] for at in range(HEAD_SIZE, len(row), DESTINATION_SIZE)]


def destination_key(packed: bytes) -> bytes:
    """What the kernel finds a destination by: family, address, port."""
    return packed[:DESTINATION_KEY_SIZE]


def unpack_destination_key(packed: bytes) -> tuple[str, int]:
    """Address and port of a packed destination or of its key."""
    return unpack_address(packed[0], packed[1:17]), int.from_bytes(packed[17:19], "big")


def with_weight(packed: bytes, weight: int) -> bytes:
    """The packed destination with another weight."""
    return packed[:_WEIGHT_AT] + struct.pack(">I", weight) + packed[_WEIGHT_AT + 4 :]
