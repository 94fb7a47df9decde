"""The messages of the generic netlink family ``IPVS``, version 1 (``include/uapi/linux/ip_vs.h``), to and from rows.

Pure. A message here is a generic netlink header with its attributes; the netlink header in front of it is the
socket's. Packing and reading cost one to two microseconds a destination, since there may be 100,000.
"""

import struct
import sys
from collections.abc import Sequence
from typing import NamedTuple

from ipvs_agent.kernel.attributes import HEADER, MalformedMessageError, Path, Reader, attribute
from ipvs_agent.rows import ServiceKey, ServiceRow
from ipvs_agent.services import (
    AF_INET,
    FLAG_ENGINE,
    FLAG_HASHED,
    HEAD_SIZE,
    Activity,
    destination_key,
    destinations_of,
    head_of,
)
from ipvs_agent.table import Change

FAMILY = "IPVS"
VERSION = 1

NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE = 1, 2, 3, 4
NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = 5, 6, 7, 8
"""Commands: ``IPVS_CMD_*``."""

_SERVICE, _DEST = 1, 2
_AF, _PROTOCOL, _ADDRESS, _PORT, _FWMARK = 1, 2, 3, 4, 5
_SCHEDULER, _FLAGS, _TIMEOUT, _NETMASK, _ENGINE = 6, 7, 8, 9, 11
_DEST_ADDRESS, _DEST_PORT, _FORWARDING, _WEIGHT, _UPPER, _LOWER = 1, 2, 3, 4, 5, 6
_ACTIVE, _INACTIVE, _PERSISTENT, _DEST_AF, _STATS64 = 7, 8, 9, 11, 12
_TUNNEL_TYPE, _TUNNEL_PORT, _TUNNEL_FLAGS = 13, 14, 15
_CONNECTIONS, _PACKETS_IN, _PACKETS_OUT, _BYTES_IN, _BYTES_OUT = 1, 2, 3, 4, 5

_KEY = struct.Struct(">BB2s16s")
_HEAD = struct.Struct(">16sIIB")
_DESTINATION = struct.Struct(">B16s2sBIIIB2sB")
_DESTINATION_KEY = struct.Struct(">B16s2s")
"""The packed layouts of ``ipvs_agent.services``, ports as the bytes that both sides use."""

_KEY_ATTRIBUTES = struct.Struct("=HH HHHxx HHHxx HH16s HH2sxx")
_DEST_KEY_MESSAGE = struct.Struct("=60s 16s 4s2s 6sH2x")
_DEST_MESSAGE = struct.Struct("=60s 16s 4s2s 6sH 6sI 4sI 4sI 4sI 4sB 7s2s 6sH2x")
"""Whole messages about destinations, values in turn with what stands between them: padding and attribute headers."""

_NAMED = struct.Struct(f"={4 + _KEY_ATTRIBUTES.size + 8}x16s4x2s6xH")
"""Address, port and family of the destination in either."""

_TO_PORT, _TO_AF, _TO_FORWARDING, _TO_WEIGHT, _TO_UPPER, _TO_LOWER, _TO_TYPE, _TO_TUNNEL_PORT, _TO_FLAGS = (
    bytes(padding) + HEADER.pack(HEADER.size + size, kind)
    for padding, size, kind in (
        (0, 2, _DEST_PORT), (2, 2, _DEST_AF), (2, 4, _FORWARDING), (0, 4, _WEIGHT), (0, 4, _UPPER), (0, 4, _LOWER),
        (0, 1, _TUNNEL_TYPE), (3, 2, _TUNNEL_PORT), (2, 2, _TUNNEL_FLAGS),
    )
)  # fmt: skip


class MarkService(NamedTuple):
    """Somebody's service by firewall mark: it has no address, so no key, and is none of ours."""

    family: int
    mark: int
    scheduler: str


def header(command: int) -> bytes:
    """The generic netlink header."""
    return struct.pack("=BBH", command, VERSION, 0)


def _netmask(family: int, length: int) -> bytes:
    """IPv4: a mask; IPv6: the prefix length in native order (``ip_vs_add_service``)."""
    if family == AF_INET:
        return ((0xFFFF_FFFF << (32 - length)) & 0xFFFF_FFFF).to_bytes(4, "big")
    return length.to_bytes(4, sys.byteorder)


_IPV4_PREFIX_LENGTHS = {_netmask(AF_INET, length): length for length in range(33)}
_ODD_NETMASK = 255
"""For a mask with holes, which no row of ours has."""


def _key_attributes(key: ServiceKey) -> bytes:
    """The service nest that names one service."""
    family, protocol, port, address = _KEY.unpack(key)
    return _KEY_ATTRIBUTES.pack(
        _KEY_ATTRIBUTES.size, _SERVICE, 6, _AF, family, 6, _PROTOCOL, protocol, 20, _ADDRESS, address, 6, _PORT, port
    )  # fmt: skip


def _service_message(command: int, key: ServiceKey, head: bytes) -> bytes:
    scheduler, flags, timeout, netmask = _HEAD.unpack(head)
    return header(command) + attribute(
        _SERVICE,
        _key_attributes(key)[4:]
        + attribute(_SCHEDULER, scheduler.rstrip(b"\0") + b"\0")
        + attribute(_FLAGS, struct.pack("=II", flags, 0xFFFF_FFFF))
        + attribute(_TIMEOUT, struct.pack("=I", timeout))
        + attribute(_NETMASK, _netmask(key[0], netmask)),
    )


def _destination_start(command: int, service: bytes, message: struct.Struct) -> bytes:
    """What comes before the destination's address; ``service``: the service's key attributes."""
    nest = HEADER.pack(message.size - 4 - len(service), _DEST)
    return header(command) + service + nest + HEADER.pack(HEADER.size + 16, _DEST_ADDRESS)


def _destination_messages(command: int, service: bytes, destinations: bytes) -> list[bytes]:
    """NEW_DEST or SET_DEST of each; ``destinations``: packed, one behind the other."""
    start = _destination_start(command, service, _DEST_MESSAGE)
    return [
        _DEST_MESSAGE.pack(
            start, address, _TO_PORT, port, _TO_AF, family,
            _TO_FORWARDING, forwarding, _TO_WEIGHT, weight, _TO_UPPER, upper, _TO_LOWER, lower,
            _TO_TYPE, kind, _TO_TUNNEL_PORT, tunnel_port, _TO_FLAGS, flags,
        )
        for family, address, port, forwarding, weight, upper, lower, kind, tunnel_port, flags
        in _DESTINATION.iter_unpack(destinations)
    ]  # fmt: skip


def _destination_deletions(service: bytes, destinations: bytes) -> list[bytes]:
    start = _destination_start(DEL_DEST, service, _DEST_KEY_MESSAGE)
    return [
        _DEST_KEY_MESSAGE.pack(start, address, _TO_PORT, port, _TO_AF, family)
        for family, address, port, *_ in _DESTINATION.iter_unpack(destinations)
    ]


def messages(change: Change[ServiceKey, ServiceRow]) -> list[bytes]:
    """The fewest messages that make the service's row ``new`` where it is ``old``; NEW_SERVICE, if any, is the first.

    What changes is set in place, never deleted and added: connections stay with their destination, and the kernel
    searches its list of deleted destinations for every added one. Removals come last, so that a service whose real
    servers are all replaced is never without one.
    """
    key, old, new = change.key, change.old, change.new
    if old == new:
        return []
    if new is None:
        return [header(DEL_SERVICE) + _key_attributes(key)]
    service = _key_attributes(key)
    if old is None:
        head = [_service_message(NEW_SERVICE, key, head_of(new))]
        return head + _destination_messages(NEW_DEST, service, new[HEAD_SIZE:])
    head = [_service_message(SET_SERVICE, key, head_of(new))] if head_of(old) != head_of(new) else []
    before = {destination_key(packed): packed for packed in destinations_of(old)}
    after = {destination_key(packed): packed for packed in destinations_of(new)}
    added = [packed for name, packed in after.items() if name not in before]
    changed = [packed for name, packed in after.items() if before.get(name, packed) != packed]
    removed = [packed for name, packed in before.items() if name not in after]
    return [
        *head,
        *_destination_messages(NEW_DEST, service, b"".join(added)),
        *_destination_messages(SET_DEST, service, b"".join(changed)),
        *_destination_deletions(service, b"".join(removed)),
    ]


def command_of(message: bytes) -> int:
    """Its ``IPVS_CMD_*``."""
    return message[0]


def named_destination(message: bytes) -> bytes | None:
    """The key (``services.destination_key``) of the destination that a message writes or deletes, if any."""
    if message[0] not in (NEW_DEST, SET_DEST, DEL_DEST):
        return None
    address, port, family = _NAMED.unpack_from(message)
    return _DESTINATION_KEY.pack(family, address, port)


def get_service(key: ServiceKey | None = None) -> bytes:
    """One service; without a key, for a dump of all."""
    return header(GET_SERVICE) + (b"" if key is None else _key_attributes(key))


def get_destinations(key: ServiceKey) -> bytes:
    """For a dump; empty, without an error, where the service is missing."""
    return header(GET_DEST) + _key_attributes(key)


def _in(nest: int, *kinds_and_codes: tuple[int, str]) -> list[tuple[Path, str]]:
    return [((nest, kind), code) for kind, code in kinds_and_codes]


_SERVICES = Reader(
    _in(
        _SERVICE,
        (_AF, "H"), (_FWMARK, "I"), (_PROTOCOL, "H"), (_PORT, "2s"), (_ADDRESS, "16s"),
        (_SCHEDULER, "s"), (_FLAGS, "I4x"), (_TIMEOUT, "I"), (_NETMASK, "4s"), (_ENGINE, "s"),
    )
)  # fmt: skip

_DESTINATIONS = Reader(
    _in(
        _DEST,
        (_DEST_ADDRESS, "16s"), (_DEST_PORT, "2s"), (_FORWARDING, "I"), (_WEIGHT, "I"),
        (_TUNNEL_TYPE, "B"), (_TUNNEL_PORT, "2s"), (_TUNNEL_FLAGS, "H"), (_UPPER, "I"), (_LOWER, "I"), (_DEST_AF, "H"),
    )
)  # fmt: skip

_ACTIVITIES = Reader(
    _in(
        _DEST,
        (_DEST_ADDRESS, "16s"), (_DEST_PORT, "2s"),
        (_ACTIVE, "I"), (_INACTIVE, "I"), (_PERSISTENT, "I"), (_DEST_AF, "H"),
    )
    + [
        ((_DEST, _STATS64, counter), "Q")
        for counter in (_CONNECTIONS, _PACKETS_IN, _PACKETS_OUT, _BYTES_IN, _BYTES_OUT)
    ]
)  # fmt: skip
"""STATS64, since STATS wraps at 32 bits."""


def read_service(message: bytes) -> tuple[ServiceKey, bytes] | MarkService:
    """Key and packed head of the service that a GET_SERVICE answer tells of."""
    family, mark, protocol, port, address, scheduler, flags, timeout, netmask, engine = _SERVICES.read(message)
    try:
        if mark is not None:
            return MarkService(family, mark, scheduler.rstrip(b"\0").decode())
        if family == AF_INET:
            length = _IPV4_PREFIX_LENGTHS.get(netmask, _ODD_NETMASK)
        else:
            length = int.from_bytes(netmask, sys.byteorder)
        flags = flags & ~FLAG_HASHED | (FLAG_ENGINE if engine else 0)
        return _KEY.pack(family, protocol, port, address), _HEAD.pack(scheduler, flags, timeout, length)
    except (struct.error, TypeError, AttributeError) as error:
        raise MalformedMessageError(f"a service without what Linux 5.4 tells of every service: {error}") from None


def read_destinations(messages: Sequence[bytes]) -> list[bytes]:
    """The packed destinations that the answers to a GET_DEST tell of."""
    try:
        return [
            _DESTINATION.pack(
                family, address, port, forwarding, weight, upper, lower, kind, tunnel_port, flags & 0xFF
            )
            for address, port, forwarding, weight, kind, tunnel_port, flags, upper, lower, family
            in _DESTINATIONS.read_all(messages)
        ]  # fmt: skip
    except (struct.error, TypeError) as error:
        raise MalformedMessageError(
            f"a destination without what Linux 5.4 tells of every destination: {error}"
        ) from None


def read_activities(messages: Sequence[bytes]) -> dict[bytes, Activity]:
    """Counters by destination key out of the same answers."""
    return {
        _DESTINATION_KEY.pack(family, address, port): Activity(active, inactive, persistent, *totals)
        for address, port, active, inactive, persistent, family, *totals in _ACTIVITIES.read_all(messages)
    }
