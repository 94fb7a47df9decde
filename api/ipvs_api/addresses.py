"""Address ranges as DirectorGroups write them: addresses, CIDRs and ``first-last`` ranges, both families."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

Address = IPv4Address | IPv6Address


class AddressRange(NamedTuple):
    """``first`` to ``last``, both included, of one family."""

    version: int
    first: int
    last: int


def parse_range(text: str) -> AddressRange:
    """One range. Raises ValueError, in words, for anything else; host bits in a CIDR are an error too."""
    first, dash, last = text.partition("-")
    if dash:
        low, high = ip_address(first.strip()), ip_address(last.strip())
        if low.version != high.version:
            raise ValueError(f"{text!r} begins in one address family and ends in the other")
        if int(low) > int(high):
            raise ValueError(f"{text!r} ends before it begins")
        return AddressRange(low.version, int(low), int(high))
    network = ip_network(text)
    return AddressRange(network.version, int(network.network_address), int(network.broadcast_address))


class AddressRanges:
    """Membership in a list of ranges. Building it raises ValueError for the first bad one."""

    def __init__(self, ranges: Iterable[AddressRange]) -> None:
        self.ranges = tuple(ranges)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "AddressRanges":
        return cls(parse_range(text) for text in texts)

    def __contains__(self, address: str | Address) -> bool:
        parsed = ip_address(address)
        value = int(parsed)
        return any(r.version == parsed.version and r.first <= value <= r.last for r in self.ranges)
