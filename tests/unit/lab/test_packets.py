import struct

from ipvs_lab.net.packets import ETH_IPV4, parse_ethernet, parse_ip, parse_network

HEADER = bytes.fromhex("020000000200 020000000100")


def ipv4(
    protocol: int, payload: bytes, source: str = "c0000201", destination: str = "c000020a", offset: int = 0
) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, offset, 63, protocol, 0)
    return head + bytes.fromhex(source + destination) + payload


def tcp(flags: int) -> bytes:
    return struct.pack(">HHIIBBHHH", 40000, 80, 1, 0, 0x50, flags, 0, 0, 0)


def test_a_syn_is_read_with_macs_ports_and_flags() -> None:
    packet = parse_ethernet(HEADER + b"\x08\x00" + ipv4(6, tcp(0x02)))
    assert (packet.source_mac, packet.destination_mac) == ("02:00:00:00:01:00", "02:00:00:00:02:00")
    assert (packet.protocol, packet.source, packet.destination) == ("tcp", "192.0.2.1", "192.0.2.10")
    assert (packet.source_port, packet.destination_port, packet.flags, packet.ttl) == (40000, 80, "S", 63)


def test_an_arp_request_tells_who_asks_for_whom() -> None:
    body = bytes.fromhex("0001080006040001 020000000100 c0000201 000000000000 c000020a")
    packet = parse_ethernet(b"\xff" * 6 + HEADER[6:] + b"\x08\x06" + body)
    assert (packet.protocol, packet.type, packet.source, packet.destination) == ("arp", 1, "192.0.2.1", "192.0.2.10")


def test_ipip_shows_the_packet_inside() -> None:
    packet = parse_ip(ipv4(4, ipv4(6, tcp(0x12)), destination="0a00000b"))
    assert packet.protocol == "ipip"
    assert packet.inner is not None
    assert (packet.inner.destination, packet.inner.flags) == ("192.0.2.10", "SA")


def test_gre_with_a_key_shows_the_packet_inside() -> None:
    gre = struct.pack(">HHI", 0x2000, ETH_IPV4, 7) + ipv4(6, tcp(0x10))
    packet = parse_ip(ipv4(47, gre))
    assert packet.inner is not None
    assert packet.inner.flags == "A"


def test_an_icmp_error_quotes_what_it_is_about() -> None:
    packet = parse_ip(ipv4(1, struct.pack(">BBHI", 3, 4, 0, 1480) + ipv4(6, tcp(0x10))))
    assert (packet.type, packet.code) == (3, 4)
    assert packet.inner is not None
    assert packet.inner.destination_port == 80


def test_a_later_fragment_has_no_ports() -> None:
    packet = parse_ip(ipv4(6, tcp(0x02), offset=185))
    assert packet.fragment
    assert packet.source_port == 0


def test_ipv6_extension_headers_are_stepped_over() -> None:
    udp = struct.pack(">HHHH", 5000, 53, 12, 0) + b"ping"
    options = bytes([17, 0]) + bytes(6)
    addresses = bytes.fromhex("20010db8" + "00" * 11 + "01" + "20010db8" + "00" * 11 + "02")
    packet = parse_ip(struct.pack(">IHBB", 6 << 28, len(options + udp), 0, 64) + addresses + options + udp)
    assert (packet.protocol, packet.destination_port, packet.payload) == ("udp", 53, b"ping")
    assert packet.source == "2001:db8::1"


def test_what_is_cut_short_is_no_crash() -> None:
    whole = ipv4(6, tcp(0x02))
    for length in range(len(whole)):
        parse_network(ETH_IPV4, whole[:length])
    for length in range(14):
        assert parse_ethernet(bytes(length)).protocol == "short"
