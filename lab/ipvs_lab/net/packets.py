"""Bytes on the wire as values: Ethernet, ARP, IPv4, IPv6, TCP, UDP, SCTP, ICMP, and what IPIP and GRE carry. Pure."""

import ipaddress
import struct
from typing import NamedTuple

ETH_IPV4, ETH_ARP, ETH_VLAN, ETH_IPV6 = 0x0800, 0x0806, 0x8100, 0x86DD
ICMP, IPIP, TCP, UDP, IPV6, GRE, ICMPV6, SCTP = 1, 4, 6, 17, 41, 47, 58, 132
EXTENSIONS = {0, 43, 60}  # hop-by-hop, routing, destination options: length in their second byte, RFC 8200
FRAGMENT = 44
PROTOCOLS = {
    ICMP: "icmp",
    IPIP: "ipip",
    TCP: "tcp",
    UDP: "udp",
    IPV6: "ipv6",
    GRE: "gre",
    ICMPV6: "icmpv6",
    SCTP: "sctp",
}
TCP_FLAGS = "FSRPAUEC"  # as tcpdump's: fin syn rst psh ack urg ece cwr


class Packet(NamedTuple):
    """One packet; what does not apply is empty or 0.

    protocol: "arp", "tcp", "udp", "sctp", "icmp", "icmpv6", "ipip", "ipv6" (in something), "gre", or a number.
    source, destination: addresses of the network layer; for ARP the sender's and the target's.
    flags: TCP flags out of "FSRPAUEC"; type, code: ICMP's; type 1 for an ARP request and 2 for a reply.
    payload: what follows the last header parsed. inner: the packet inside IPIP or GRE, or quoted in an ICMP error.
    """

    time: float = 0.0
    interface: str = ""
    direction: str = ""
    source_mac: str = ""
    destination_mac: str = ""
    protocol: str = ""
    source: str = ""
    destination: str = ""
    source_port: int = 0
    destination_port: int = 0
    flags: str = ""
    type: int = 0
    code: int = 0
    ttl: int = 0
    length: int = 0
    fragment: bool = False
    payload: bytes = b""
    inner: "Packet | None" = None

    def __str__(self) -> str:
        ports = (f":{self.source_port}", f":{self.destination_port}") if self.source_port else ("", "")
        detail = f" [{self.flags}]" if self.flags else f" type {self.type}" if self.type else ""
        inside = f" ({self.inner})" if self.inner else ""
        where = f"{self.interface} {self.direction} {self.source_mac}>{self.destination_mac} " if self.interface else ""
        return (
            f"{where}{self.protocol} {self.source}{ports[0]} > {self.destination}{ports[1]}{detail}"
            f" {len(self.payload)} bytes{inside}"
        )


def _mac(data: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in data)


def parse_ethernet(data: bytes) -> Packet:
    """A frame, with or without one VLAN tag."""
    if len(data) < 14:
        return Packet(protocol="short", payload=data)
    kind, start = int.from_bytes(data[12:14], "big"), 14
    if kind == ETH_VLAN:
        kind, start = int.from_bytes(data[16:18], "big"), 18
    return parse_network(kind, data[start:])._replace(source_mac=_mac(data[6:12]), destination_mac=_mac(data[:6]))


def parse_network(kind: int, data: bytes) -> Packet:
    """A packet by its EtherType."""
    try:
        if kind == ETH_ARP:
            return _arp(data)
        if kind in (ETH_IPV4, ETH_IPV6):
            return parse_ip(data)
    except (struct.error, IndexError, ValueError):
        return Packet(protocol="short", payload=data)
    return Packet(protocol=f"0x{kind:04x}", payload=data)


def _arp(data: bytes) -> Packet:
    """RFC 826 for Ethernet and IPv4. The sender's MAC is what the packet says, which the frame may contradict."""
    (operation,) = struct.unpack(">H", data[6:8])
    source, destination = (str(ipaddress.ip_address(data[start : start + 4])) for start in (14, 24))
    return Packet(protocol="arp", source=source, destination=destination, type=operation, payload=data[8:14])


def parse_ip(data: bytes) -> Packet:
    """A packet that begins with an IPv4 or IPv6 header. ValueError or struct.error for one cut too short."""
    if data[0] >> 4 == 4:
        start = (data[0] & 15) * 4
        length, _, offset, ttl, protocol = struct.unpack(">HHHBB", data[2:10])
        source, destination = data[12:16], data[16:20]
        later, fragment = offset & 0x1FFF != 0, offset & 0x3FFF != 0
    else:
        payload, protocol, ttl = struct.unpack(">HBB", data[4:8])
        source, destination = data[8:24], data[24:40]
        start, length, later, fragment = 40, payload + 40, False, False
        while protocol in EXTENSIONS or protocol == FRAGMENT:
            size = 8 if protocol == FRAGMENT else data[start + 1] * 8 + 8
            if protocol == FRAGMENT:
                fragment, later = True, int.from_bytes(data[start + 2 : start + 4], "big") >> 3 != 0
            protocol, start = data[start], start + size
    packet = Packet(
        protocol=PROTOCOLS.get(protocol, str(protocol)),
        source=str(ipaddress.ip_address(source)),
        destination=str(ipaddress.ip_address(destination)),
        ttl=ttl,
        length=length,
        fragment=fragment,
        payload=data[start:length],
    )
    return packet if later else _transport(packet, protocol, data[start:length])


def _transport(packet: Packet, protocol: int, data: bytes) -> Packet:
    """Add what the transport's header says."""
    if protocol == TCP and len(data) >= 20:
        source, destination = struct.unpack(">HH", data[:4])
        flags = "".join(name for bit, name in enumerate(TCP_FLAGS) if data[13] >> bit & 1)
        body = data[(data[12] >> 4) * 4 :]
        return packet._replace(source_port=source, destination_port=destination, flags=flags, payload=body)
    if protocol in (UDP, SCTP) and len(data) >= 8:
        source, destination = struct.unpack(">HH", data[:4])
        return packet._replace(
            source_port=source, destination_port=destination, payload=data[8 if protocol == UDP else 12 :]
        )
    if protocol in (ICMP, ICMPV6) and len(data) >= 8:
        error = data[0] in (3, 5, 11, 12) if protocol == ICMP else data[0] < 128
        quoted = _quoted(data[8:]) if error else None
        return packet._replace(type=data[0], code=data[1], payload=data[8:], inner=quoted)
    if protocol in (IPIP, IPV6):
        return packet._replace(inner=_quoted(data))
    if protocol == GRE and len(data) >= 4:
        # RFC 2890: a checksum, a key and a sequence number take 4 bytes each.
        start = 4 + 4 * sum(data[0] >> bit & 1 for bit in (7, 5, 4))
        kind = int.from_bytes(data[2:4], "big")
        return packet._replace(payload=data[start:], inner=parse_network(kind, data[start:]))
    return packet


def _quoted(data: bytes) -> Packet | None:
    try:
        return parse_ip(data)
    except (struct.error, IndexError, ValueError):
        return None
