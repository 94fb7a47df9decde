"""Ask the network whether somebody has an address before we take it, and tell it when we have.

Everything here works on any number of addresses at once: each has its own time line of probes, sent in small bursts, so
that 10,000 addresses take half a second longer than one and neither switches nor hosts get a storm. Needs CAP_NET_RAW.

RFC 5227 waits up to nine seconds before it believes that an address is free; a load balancer that takes an address over
cannot. Three probes 0.2 s apart find every host on the same LAN that is up.
"""

import ctypes
import errno
import select
import socket
import struct
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from heapq import merge
from typing import NamedTuple

from ipvs_agent.facts import Interface
from ipvs_agent.kernel import frames
from ipvs_agent.kernel.frames import ETH_P_ARP, ETH_P_IPV6

BURST = 100
BURST_INTERVAL = 0.005
"""Frames that go out together, and seconds between two bursts: 20,000 frames a second, some 10 Mbit/s of broadcast."""

_SOL_PACKET, _ADD_MEMBERSHIP, _IGNORE_OUTGOING, _ALLMULTI = 263, 1, 23, 2
_SO_ATTACH_FILTER = 26
_SO_RCVBUF = 1 << 20
_DROP, _TAKE = (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFF)
_DISCOVERY_FILTER = (
    (0x30, 0, 0, 20),  # load the byte at 20: IPv6's next header
    (0x15, 0, 3, 58),
    (0x30, 0, 0, 54),  # ICMPv6's type
    (0x15, 2, 0, 135),
    (0x15, 1, 0, 136),
    _DROP,
    _TAKE,
)
"""``bpf(4)``: only these reach us, however much IPv6 the host speaks."""


class Timing(NamedTuple):
    """``probes``: how many, ``interval`` seconds apart; ``wait``: seconds to listen after the last (ANNOUNCE_WAIT)."""

    probes: int = 3
    interval: float = 0.2
    wait: float = 0.2


SHORT = Timing()
"""See the module's text."""


class Probe:
    """One round of asking: what to send when, and what was heard. No socket, no clock.

    ``own``: MACs of this host, whose frames do not count.
    """

    def __init__(
        self, mac: str, addresses: Iterable[str], started: float, own: Iterable[str] = (), timing: Timing = SHORT
    ) -> None:
        self._mac = mac
        self._own = {mac, *own}
        self._addresses = list(dict.fromkeys(addresses))
        self._pending = set(self._addresses)
        self._planned = _time_line(started, len(self._addresses), timing.probes, timing.interval)
        self._next = next(self._planned, None)
        last = (
            started
            + (timing.probes - 1) * timing.interval
            + (max(len(self._addresses) - 1, 0) // BURST) * BURST_INTERVAL
        )
        self.ends = last + timing.wait
        self.holders: dict[str, str] = {}
        """MAC by address of those that somebody has or is about to take."""

    def due(self, now: float) -> list[bytes]:
        """Frames to send now; an address that somebody has is not asked for again."""
        due = []
        while self._next is not None and self._next[0] <= now:
            address = self._addresses[self._next[1]]
            if address in self._pending:
                due.append(frames.probe(self._mac, address))
            self._next = next(self._planned, None)
        return due

    def heard(self, frame: bytes) -> None:
        """Somebody else's frame: an answer, any other claim, or a probe for the same address (RFC 5227, 2.1.1)."""
        said = frames.parse(frame)
        if said is not None and said.address in self._pending and said.mac not in self._own:
            self.holders[said.address] = said.mac
            self._pending.discard(said.address)

    def wakes(self) -> float:
        """When something is to be done next."""
        return self._next[0] if self._next is not None and self._pending else self.ends

    def done(self, now: float) -> bool:
        """Nothing is left to learn."""
        return now >= self.ends or not self._pending


def _time_line(started: float, count: int, rounds: int, interval: float) -> Iterator[tuple[float, int]]:
    """When which address is asked for: everyone ``rounds`` times, in bursts, in order of time."""

    def one(number: int) -> Iterator[tuple[float, int]]:
        begin = started + number * interval
        return ((begin + at // BURST * BURST_INTERVAL, at) for at in range(count))

    return merge(*(one(number) for number in range(rounds)))


class Wire:
    """Packet sockets on one Ethernet interface that hear ARP and neighbour discovery and send frames as they are.

    OSError when the interface is gone or the right is missing. For IPv6 the interface takes every multicast while this
    is open, since other hosts' duplicate address detection is sent to groups that we are not in; a switch that snoops
    MLD may still keep it from us. Answers are sent to all nodes and arrive.
    """

    def __init__(self, interface: str, *, ipv4: bool, ipv6: bool) -> None:
        self._sockets: dict[int, socket.socket] = {}
        try:
            if ipv4:
                self._sockets[ETH_P_ARP] = _packet_socket(interface, ETH_P_ARP)
            if ipv6:
                self._sockets[ETH_P_IPV6] = _packet_socket(interface, ETH_P_IPV6)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        for opened in self._sockets.values():
            opened.close()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def send(self, outgoing: Iterable[bytes]) -> None:
        """One burst. A full queue loses frames as a network does, and what we say is said again; OSError otherwise."""
        for frame in outgoing:
            try:
                self._sockets[int.from_bytes(frame[12:14], "big")].send(frame)
            except OSError as failure:
                if failure.errno not in (errno.EAGAIN, errno.ENOBUFS):
                    raise

    def receive(self, timeout: float) -> list[bytes]:
        """What was heard; waits up to ``timeout`` seconds for the first. OSError when the interface went down."""
        heard = []
        readable, _, _ = select.select(list(self._sockets.values()), (), (), max(timeout, 0))
        for opened in readable:
            with suppress(BlockingIOError):
                while True:
                    heard.append(opened.recv(2048))
        return heard


def _packet_socket(interface: str, protocol: int) -> socket.socket:
    """Bound last: until then it hears nothing, so nothing gets in before the filter."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SO_RCVBUF)
        with suppress(OSError):  # Linux 4.20; what we send is known by its source
            opened.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        if protocol == ETH_P_IPV6:
            code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in _DISCOVERY_FILTER))
            program = struct.pack("@HP", len(_DISCOVERY_FILTER), ctypes.addressof(code))
            opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            everything = struct.pack("@iHH8s", socket.if_nametoindex(interface), _ALLMULTI, 0, b"")
            opened.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, everything)
        opened.bind((interface, protocol))
    except OSError:
        opened.close()
        raise
    return opened


def speaks_ethernet(interface: Interface) -> bool:
    """Whether anybody can be asked or told on it: not on loopback, a link without ARP or a tunnel."""
    return not interface.loopback and not interface.noarp and len(interface.mac) == 17


def probe(
    interface: Interface, addresses: Collection[str], own: Iterable[str] = (), timing: Timing = SHORT
) -> dict[str, str]:
    """Ask for all addresses at once and listen: MAC by address of those that somebody else has or is about to take.

    ``own``: MACs of this host's other interfaces. Takes 0.6 s, with 10,000 addresses half a second more. Nobody has
    what cannot be asked for (``speaks_ethernet``). OSError when the interface is down or gone, or the right is missing.
    """
    if not addresses or not speaks_ethernet(interface):
        return {}
    ipv6 = any(":" in address for address in addresses)
    with Wire(interface.name, ipv4=any(":" not in address for address in addresses), ipv6=ipv6) as wire:
        asking = Probe(interface.mac, addresses, time.monotonic(), own, timing)
        while not asking.done(now := time.monotonic()):
            wire.send(asking.due(now))
            for frame in wire.receive(asking.wakes() - time.monotonic()):
                asking.heard(frame)
    return asking.holders


def announce(interface: Interface, addresses: Collection[str], *, routers: Collection[str] = ()) -> None:
    """Tell everybody on the interface that these addresses are here now, once; say it again some seconds later.

    ``routers``: those that others use as their default router. 10,000 IPv4 addresses take a second. OSError as in
    ``probe``.
    """
    if not addresses or not speaks_ethernet(interface):
        return
    ipv6 = any(":" in address for address in addresses)
    with Wire(interface.name, ipv4=any(":" not in address for address in addresses), ipv6=ipv6) as wire:
        outgoing = [
            frame
            for address in addresses
            for frame in frames.announcements(interface.mac, address, router=address in routers)
        ]
        started = time.monotonic()
        for number, at in enumerate(range(0, len(outgoing), BURST)):
            time.sleep(max(started + number * BURST_INTERVAL - time.monotonic(), 0))
            wire.send(outgoing[at : at + BURST])
