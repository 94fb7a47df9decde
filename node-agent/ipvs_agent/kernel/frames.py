"""Frames that ask who has an address, and that tell who has it now.

ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861, RFC 4862). Pure: bytes from values and back.
"""

import socket
import struct
from ipaddress import ip_address
from typing import NamedTuple

ETH_P_ARP, ETH_P_IPV6 = 0x0806, 0x86DD
BROADCAST = b"\xff" * 6
_ALL_NODES = ip_address("ff02::1").packed
_SOLICITED_NODE = ip_address("ff02::1:ff00:0").packed[:13]

_ETHERNET = struct.Struct(">6s6sH")
_ARP = struct.Struct(">HHBBH6s4s6s4s")
_ARP_HEAD = (1, 0x0800, 6, 4)  # Ethernet, IPv4, sizes of their addresses
_REQUEST, _REPLY = 1, 2
_IPV6 = struct.Struct(">IHBB16s16s")
_ICMPV6 = struct.Struct(">BBHI16s")
_NEXT_ICMPV6, _HOP_LIMIT = 58, 255
_SOLICITATION, _ADVERTISEMENT = 135, 136
_TARGET_LINK_ADDRESS = b"\x02\x01"  # option type and length in units of eight bytes
_ROUTER, _OVERRIDE = 0x8000_0000, 0x2000_0000


class Heard(NamedTuple):
    """What somebody said about an address: that it is theirs, or (``asking``) that they are about to take it."""

    address: str
    mac: str
    asking: bool


def pack_mac(mac: str) -> bytes:
    """Six bytes of ``02:00:…``; ValueError for what is no Ethernet address."""
    packed = bytes.fromhex(mac.replace(":", ""))
    if len(packed) != 6:
        raise ValueError(f"{mac!r} is no Ethernet address")
    return packed


def probe(mac: str, address: str) -> bytes:
    """Ask whether anybody has ``address``, without claiming it: an ARP probe (RFC 5227, 2.1.1) or the solicitation of
    duplicate address detection (RFC 4862, 5.4.2)."""
    parsed, own = ip_address(address), pack_mac(mac)
    if parsed.version == 4:
        return _arp(own, _REQUEST, bytes(4), bytes(6), parsed.packed)
    group = _SOLICITED_NODE + parsed.packed[13:]
    return _discovery(own, bytes(16), group, _ICMPV6.pack(_SOLICITATION, 0, 0, 0, parsed.packed))


def announcements(mac: str, address: str, *, router: bool = False) -> list[bytes]:
    """Tell everybody that ``address`` is at ``mac`` now, whatever they believed.

    IPv4: an ARP request for one's own address, which is what RFC 5227 (section 3) wants and what updates every cache
    that follows it, and the same as a reply, since some equipment learns from replies only. Linux takes such a reply as
    gratuitous only where the target's hardware address is the sender's, too (``arp_is_garp``). IPv6: an unsolicited
    advertisement with the override flag (RFC 4861, 7.2.6); ``router`` keeps hosts that use the address as their default
    router from dropping it.
    """
    parsed, own = ip_address(address), pack_mac(mac)
    if parsed.version == 4:
        return [
            _arp(own, _REQUEST, parsed.packed, bytes(6), parsed.packed),
            _arp(own, _REPLY, parsed.packed, own, parsed.packed),
        ]
    flags = _OVERRIDE | (_ROUTER if router else 0)
    message = _ICMPV6.pack(_ADVERTISEMENT, 0, 0, flags, parsed.packed) + _TARGET_LINK_ADDRESS + own
    return [_discovery(own, parsed.packed, _ALL_NODES, message)]


def _arp(own: bytes, operation: int, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    body = _ARP.pack(*_ARP_HEAD, operation, own, sender, target_mac, target)
    return _ETHERNET.pack(BROADCAST, own, ETH_P_ARP) + body


def _discovery(own: bytes, source: bytes, group: bytes, message: bytes) -> bytes:
    pseudo_header = source + group + struct.pack(">II", len(message), _NEXT_ICMPV6)
    message = message[:2] + checksum(pseudo_header + message).to_bytes(2, "big") + message[4:]
    ethernet = _ETHERNET.pack(b"\x33\x33" + group[12:], own, ETH_P_IPV6)  # RFC 2464, section 7
    return ethernet + _IPV6.pack(6 << 28, len(message), _NEXT_ICMPV6, _HOP_LIMIT, source, group) + message


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse(frame: bytes) -> Heard | None:
    """What an Ethernet frame says about an address; None for every other frame."""
    if len(frame) < _ETHERNET.size:
        return None
    _, source, kind = _ETHERNET.unpack_from(frame)
    if kind == ETH_P_ARP and len(frame) >= _ETHERNET.size + _ARP.size:
        return _parse_arp(frame)
    if kind == ETH_P_IPV6 and len(frame) >= _ETHERNET.size + _IPV6.size + _ICMPV6.size:
        return _parse_discovery(source, frame)
    return None


def _parse_arp(frame: bytes) -> Heard | None:
    *head, _, sender_mac, sender, _, target = _ARP.unpack_from(frame, _ETHERNET.size)
    if tuple(head) != _ARP_HEAD:
        return None
    asking = not any(sender)
    return Heard(socket.inet_ntoa(target if asking else sender), sender_mac.hex(":"), asking)


def _parse_discovery(frame_source: bytes, frame: bytes) -> Heard | None:
    """Hop limit 255 is how one knows that it did not come through a router (RFC 4861, 7.1)."""
    _, _, following, hop_limit, source, _ = _IPV6.unpack_from(frame, _ETHERNET.size)
    if following != _NEXT_ICMPV6 or hop_limit != _HOP_LIMIT:
        return None
    at = _ETHERNET.size + _IPV6.size
    kind, code, _, _, target = _ICMPV6.unpack_from(frame, at)
    asking = kind == _SOLICITATION and not any(source)
    if code != 0 or not (asking or kind == _ADVERTISEMENT):
        return None
    option = frame[at + _ICMPV6.size : at + _ICMPV6.size + 8]
    mac = option[2:] if option[:2] == _TARGET_LINK_ADDRESS and not asking else frame_source
    return Heard(str(ip_address(target)), mac.hex(":"), asking)
