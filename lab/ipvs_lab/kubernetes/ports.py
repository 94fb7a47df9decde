"""Ports for servers that come and go."""

import contextlib
import random
import socket
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST, HIGHEST = 10_000, 65_535


def candidates(local_range: str) -> range:
    """Ports that the kernel hands to no client, given what RANGE says.

    A client that tries to reach a server which is away, on a port that clients get too, may get that very port and be
    connected with itself (a simultaneous open); and the server could not have it back. Where the range leaves fewer
    than 1,000, it is all ports.
    """
    first = int(local_range.split()[0])
    return range(LOWEST, first) if first >= LOWEST + 1000 else range(LOWEST, HIGHEST)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    possible = candidates(RANGE.read_text())
    found: list[int] = []
    for port in random.sample(possible, len(possible)):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            break
    return found
