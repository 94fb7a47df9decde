"""Which addresses of a DirectorGroup can be given to those that name none, and the lowest of them that is free.

A network of 2^64 addresses costs no more than one of 16: what is taken is remembered, and up to where it was looked.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from ipaddress import ip_network

from ipvs_api.addresses import AddressRange
from ipvs_planner.packed import V4, V6, Packed

SMALL = 1024
"""Up to so many addresses a room is made by looking at each of them."""

_UNUSABLE = tuple(
    AddressRange(network.version, int(network.network_address), int(network.broadcast_address))
    for network in map(
        ip_network,
        (
            *("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32"),
            *("::/128", "::1/128", "::ffff:0:0/96", "fe80::/10", "ff00::/8"),
        ),
    )
)
"""What ``packed.parse_address`` takes for no unicast address."""


def family_of(span: AddressRange) -> int:
    return V4 if span.version == 4 else V6


def givable(ranges: Iterable[tuple[str, AddressRange]]) -> tuple[AddressRange, ...]:
    """The addresses of ``ranges`` (as written, as parsed) that are given unasked, sorted and apart from each other.

    Not the first and last of an IPv4 network wider than /31, which hosts of that network take for its own and for its
    broadcast address, nor the first of an IPv6 network wider than /127, its routers' anycast address (RFC 4291, section
    2.6.1; RFC 6164). Another range that holds such an address gives it all the same.
    """
    spans: list[AddressRange] = []
    for span in sorted(part for text, whole in ranges for part in _unicast(_inner(text, whole))):
        if spans and spans[-1].version == span.version and span.first <= spans[-1].last + 1:
            spans[-1] = spans[-1]._replace(last=max(spans[-1].last, span.last))
        else:
            spans.append(span)
    return tuple(spans)


def _inner(text: str, span: AddressRange) -> AddressRange:
    if "/" not in text or span.last - span.first < 2:
        return span
    return span._replace(first=span.first + 1, last=span.last - (span.version == 4))


def _unicast(span: AddressRange) -> Iterator[AddressRange]:
    rest = [span]
    for bad in _UNUSABLE:
        if bad.version == span.version:
            rest = [part for piece in rest for part in _without(piece, bad)]
    return iter(rest)


def _without(span: AddressRange, bad: AddressRange) -> Iterator[AddressRange]:
    if bad.last < span.first or bad.first > span.last:
        yield span
        return
    if span.first < bad.first:
        yield span._replace(last=bad.first - 1)
    if bad.last < span.last:
        yield span._replace(first=bad.last + 1)


class Room:
    """One group's givable addresses of one family, told which of them are taken.

    ``size`` of them there are, ``free`` of them can be given.
    """

    def __init__(self, family: int, spans: Iterable[AddressRange]) -> None:
        self.family = family
        self._spans = [(span.first, span.last) for span in spans if family_of(span) == family]
        self._firsts = [first for first, _ in self._spans]
        self.size = sum(last - first + 1 for first, last in self._spans)
        self._taken: set[int] = set()
        self._cursor = (0, self._spans[0][0]) if self._spans else (0, 0)
        """Span and address before which everything is taken or among ``_returned``."""
        self._returned: list[int] = []
        """A heap of what was free again when it was put there, nothing twice."""
        self._listed: set[int] = set()

    @property
    def free(self) -> int:
        return self.size - len(self._taken)

    def holds(self, address: Packed) -> bool:
        value = int.from_bytes(address, "big")
        span = bisect_right(self._firsts, value) - 1
        return len(address) == self.family and span >= 0 and value <= self._spans[span][1]

    def __iter__(self) -> Iterator[Packed]:
        """Every address, taken or not."""
        for first, last in self._spans:
            for value in range(first, last + 1):
                yield value.to_bytes(self.family, "big")

    def mark(self, address: Packed, *, taken: bool) -> None:
        """Say of an address that it ``holds`` whether it is taken."""
        value = int.from_bytes(address, "big")
        if taken:
            self._taken.add(value)
        elif value in self._taken:
            self._taken.discard(value)
            span, at = self._cursor
            if value not in self._listed and (span == len(self._spans) or value < at):
                heappush(self._returned, value)
                self._listed.add(value)

    def lowest(self, count: int) -> list[Packed]:
        """The lowest ``count`` free ones, or as many as there are."""
        found: list[int] = []
        while self._returned and len(found) < count:
            value = heappop(self._returned)
            if value in self._taken:
                self._listed.discard(value)
            else:
                found.append(value)
        for value in found:
            heappush(self._returned, value)
        if len(found) < count:
            self._advance()
            found += self._ahead(count - len(found))
        return [value.to_bytes(self.family, "big") for value in found]

    def _advance(self) -> None:
        span, at = self._cursor
        while span < len(self._spans) and at in self._taken:
            span, at = self._after(span, at)
        self._cursor = span, at

    def _ahead(self, count: int) -> Iterator[int]:
        span, at = self._cursor
        while count and span < len(self._spans):
            if at not in self._taken:
                yield at
                count -= 1
            span, at = self._after(span, at)

    def _after(self, span: int, at: int) -> tuple[int, int]:
        if at < self._spans[span][1]:
            return span, at + 1
        return span + 1, self._spans[span + 1][0] if span + 1 < len(self._spans) else at


class Rooms:
    """The rooms of all DirectorGroups, each made when it is first looked into.

    ``taken`` says whether an address may not be given; ``named`` every address of which it may say so.
    """

    def __init__(self, taken: Callable[[Packed], bool], named: Callable[[], Iterable[Packed]]) -> None:
        self._taken, self._named = taken, named
        self._rooms: dict[str, dict[int, Room]] = {}

    def of(self, group: str, spans: Iterable[AddressRange]) -> dict[int, Room]:
        """By family. ``spans``: as the group's are."""
        if group not in self._rooms:
            self._rooms[group] = {family: self._built(Room(family, spans)) for family in (V4, V6)}
        return self._rooms[group]

    def mark(self, addresses: Iterable[Packed]) -> set[str]:
        """``addresses`` may have been taken or given back: the groups among those looked into that have other rooms."""
        changed = set()
        for address in addresses if self._rooms else ():
            taken: bool | None = None
            for group, rooms in self._rooms.items():
                room = rooms[len(address)]
                if room.holds(address):
                    taken = self._taken(address) if taken is None else taken
                    before = room.free
                    room.mark(address, taken=taken)
                    if room.free != before:
                        changed.add(group)
        return changed

    def clear(self) -> None:
        """Groups have changed: make the rooms anew."""
        self._rooms.clear()

    def _built(self, room: Room) -> Room:
        for address in room if room.size <= SMALL else filter(room.holds, self._named()):
            if self._taken(address):
                room.mark(address, taken=True)
        return room
