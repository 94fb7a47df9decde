"""Addresses and endpoints as bytes: what the indexes are keyed by.

An address is 4 or 16 bytes in network order, so its length is its family and byte order is numeric order. An endpoint
adds one byte of IP protocol number and two of port. Bytes cost half of what tuples or ``ipaddress`` values do, and
there are 100,000 of them at 10,000 virtual services.
"""

from ipaddress import AddressValueError, IPv6Address, IPv6Network
from typing import NamedTuple

from ipvs_api.virtualservice import Protocol

Packed = bytes
Endpoint = bytes

V4, V6 = 4, 16
"""Lengths of a packed address: its family."""

FAMILIES = {V4: "IPv4", V6: "IPv6"}

_NUMBERS = {Protocol.TCP: b"\x06", Protocol.UDP: b"\x11", Protocol.SCTP: b"\x84"}
_PROTOCOLS = {6: Protocol.TCP, 17: Protocol.UDP, 132: Protocol.SCTP}
_OCTETS = {str(value): value for value in range(256)}
"""How an octet may be written; without leading zeros there is one way only, so the text is canonical."""
_MAPPED = IPv6Network("::ffff:0:0/96")


class Address(NamedTuple):
    """``text`` is canonical."""

    packed: Packed
    text: str


def parse_address(text: str) -> Address | str:
    """A unicast address that can be a VIP or a real server's; a string says why it cannot."""
    if ":" not in text:
        try:
            packed = bytes([_OCTETS[octet] for octet in text.split(".")])
        except KeyError:
            return "not an IP address"
        if len(packed) != V4:
            return "not an IP address"
        return _unusable_v4(packed) or Address(packed, text)
    try:
        parsed = IPv6Address(text)
    except AddressValueError:
        return "not an IP address"
    return _unusable_v6(parsed) or Address(parsed.packed, str(parsed))


def _unusable_v4(packed: Packed) -> str:
    first = packed[0]
    if first == 0:
        return "an address of this network (0.0.0.0/8)"
    if first == 127:
        return "a loopback address"
    if 224 <= first <= 239:
        return "a multicast address"
    return "the broadcast address" if packed == b"\xff\xff\xff\xff" else ""


def _unusable_v6(parsed: IPv6Address) -> str:
    if parsed.scope_id:
        return "an address with a zone"
    if parsed.is_unspecified:
        return "the unspecified address"
    if parsed.is_loopback:
        return "a loopback address"
    if parsed.is_multicast:
        return "a multicast address"
    if parsed.is_link_local:
        return "a link-local address, which means nothing without its link"
    return "an IPv4 address in IPv6 dress; write it as IPv4" if parsed in _MAPPED else ""


def text_of(address: Packed) -> str:
    return ".".join(map(str, address)) if len(address) == V4 else str(IPv6Address(address))


def endpoint(address: Packed, protocol: Protocol, port: int) -> Endpoint:
    """``port``: 1 to 65535."""
    return address + _NUMBERS[protocol] + port.to_bytes(2, "big")


def address_of(target: Endpoint) -> Packed:
    return target[:-3]


def describe(target: Endpoint) -> str:
    """``192.0.2.10 TCP 80``."""
    return f"{text_of(target[:-3])} {_PROTOCOLS[target[-3]]} {int.from_bytes(target[-2:], 'big')}"
