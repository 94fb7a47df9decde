"""The parts of set elements: how each is written for ``nft -f`` and read from ``nft -j -n list``."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Part = str | int
"""One part of an element as rows carry it: addresses, interfaces and protocols as text, numbers as numbers."""

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_INTERFACE = re.compile(r'[^\s"/\\]{1,14}[^\s"/\\*]|[^\s"/\\*]')  # a trailing * would be a wildcard


@dataclass(frozen=True)
class Field:
    """``write`` gives nft's text and ``read`` the row's part; both raise ValueError for what is none, with what was
    found."""

    name: str
    write: Callable[[Part], str]
    read: Callable[[Any], Part]


def _interface(part: object) -> str:
    if not isinstance(part, str) or not _INTERFACE.fullmatch(part):
        raise ValueError(f"{part!r} is not the name of an interface")
    return part


def _mac(part: object) -> str:
    if not isinstance(part, str) or not _MAC.fullmatch(part):
        raise ValueError(f"{part!r} is not a MAC address in lower case with colons")
    return part


def _protocol(part: object) -> str:
    if part not in PROTOCOLS:
        raise ValueError(f"{part!r} is not one of {', '.join(PROTOCOLS)}")
    return str(part)


def _read_protocol(found: object) -> str:
    return _protocol(_PROTOCOL_NAMES.get(found, found) if isinstance(found, int) else found)


def number(low: int, high: int, part: object) -> int:
    """The number itself; ValueError outside of ``low`` to ``high``, and for what is none."""
    if not isinstance(part, int) or not low <= part <= high:
        raise ValueError(f"{part!r} is not a number from {low} to {high}")
    return part


def _address(version: int, part: object) -> str:
    parsed: IPv4Address | IPv6Address = ip_address(str(part))
    if parsed.version != version or str(parsed) != part:
        raise ValueError(f"{part!r} is not an IPv{version} address in canonical form ({parsed})")
    return str(parsed)


def network(part: object) -> IPv4Network | IPv6Network:
    """The prefix that a part means; bits behind its length are ignored. ValueError for what is none."""
    return ip_network(str(part), strict=False)


def canonical_prefix(part: object, version: int) -> str:
    """A prefix as nft tells it: without its length where it is one address."""
    parsed = network(part)
    if parsed.version != version:
        raise ValueError(f"{part!r} is not an IPv{version} prefix")
    return str(parsed.network_address if parsed.prefixlen == parsed.max_prefixlen else parsed)


def _read_prefix(version: int, found: Any) -> str:
    if isinstance(found, dict):
        found = f"{found['prefix']['addr']}/{found['prefix']['len']}"
    return canonical_prefix(found, version)


def _quoted(part: Part) -> str:
    return f'"{_interface(part)}"'


INTERFACE = Field("interface", _quoted, _interface)
MAC = Field("MAC", _mac, _mac)
PROTOCOL = Field("protocol", _protocol, _read_protocol)
PORT = Field("port", lambda part: str(number(1, 65535, part)), partial(number, 0, 65535))
ADDRESS = {
    4: Field("address", partial(_address, 4), partial(_address, 4)),
    6: Field("address", partial(_address, 6), partial(_address, 6)),
}
PREFIX = {
    4: Field("prefix", partial(canonical_prefix, version=4), partial(_read_prefix, 4)),
    6: Field("prefix", partial(canonical_prefix, version=6), partial(_read_prefix, 6)),
}
