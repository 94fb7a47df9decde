"""Clients that ask who they reached, one by one or many, and the tally of who answered."""

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ipvs_lab.net.servers import PROTOCOLS

if TYPE_CHECKING:
    from ipvs_lab.net.hosts import Host

ERRORS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EADDRNOTAVAIL: "no source address",
}
BAR = 40  # characters of the longest bar


class Answer(NamedTuple):
    """Who answered, and the client's address as that server saw it."""

    server: str
    address: str
    port: int


@dataclass
class Histogram:
    """Who answered how often (`answers`), which errors there were by kind (`errors`: refused, reset, timeout,
    unreachable, closed), and the client addresses that each server saw (`seen`)."""

    answers: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    seen: dict[str, set[str]] = field(default_factory=dict)

    def add(self, result: Answer | str) -> None:
        """Count an answer, or an error's kind."""
        if isinstance(result, str):
            self.errors[result] += 1
        else:
            self.answers[result.server] += 1
            self.seen.setdefault(result.server, set()).add(result.address)

    def __add__(self, other: "Histogram") -> "Histogram":
        servers = {*self.seen, *other.seen}
        seen = {name: self.seen.get(name, set()) | other.seen.get(name, set()) for name in servers}
        return Histogram(self.answers + other.answers, self.errors + other.errors, seen)

    def __str__(self) -> str:
        rows = [*sorted(self.answers.items()), *sorted(self.errors.items())]
        width = max((len(name) for name, _ in rows), default=0)
        longest = max((count for _, count in rows), default=0)
        return "\n".join(
            f"{name:{width}}  {('!' if name in self.errors else '█') * max(1, round(count / longest * BAR))} {count}"
            for name, count in rows
        )


def kind_of(error: BaseException) -> str:
    """An error in a word."""
    if isinstance(error, TimeoutError):
        return "timeout"
    number = getattr(error, "errno", None)
    return ERRORS.get(number or 0, f"{type(error).__name__}: {error}")


def open_socket(host: "Host", target: str, proto: str, source: str = "", source_port: int = 0) -> socket.socket:
    """A client's socket on a host, bound to a source address and port if given."""
    kind, number = PROTOCOLS[proto]
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with host.inside():
        sock = socket.socket(family, kind, number)
    try:
        sock.setblocking(False)
        if source or source_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((source or ("::" if family == socket.AF_INET6 else "0.0.0.0"), source_port))
    except OSError:
        sock.close()
        raise
    return sock


async def exchange(sock: socket.socket, target: str, port: int) -> Answer:
    """Connect, ask who it is, close. OSError, also when the other side closes without a word."""
    loop = asyncio.get_running_loop()
    with sock:
        await loop.sock_connect(sock, (target, port))
        await loop.sock_sendall(sock, b"who\n")
        text = b""
        while not text.endswith(b"\n"):
            data = await loop.sock_recv(sock, 4096)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
            text += data
    server, address, number = text.decode().split()
    return Answer(server, address, int(number))


def ask(
    host: "Host",
    target: str,
    port: int,
    proto: str = "tcp",
    *,
    timeout: float = 3,
    source: str = "",
    source_port: int = 0,
) -> Answer:
    """One client: who answers at `target`? OSError (TimeoutError after `timeout` seconds) when nobody does."""

    async def once() -> Answer:
        sock = open_socket(host, target, proto, source, source_port)
        return await asyncio.wait_for(exchange(sock, target, port), timeout)

    return asyncio.run(once())


def clients(
    host: "Host",
    count: int,
    target: str,
    port: int,
    proto: str = "tcp",
    *,
    timeout: float = 3,
    at_once: int = 1,
    interval: float = 0,
    sources: Sequence[str] = (),
    source_ports: Sequence[int] = (),
) -> Histogram:
    """Many clients one after the other (or `at_once` of them at a time, each followed by `interval` seconds): each
    opens a connection of its own and asks who answered. They take `sources` and `source_ports` in turn if given.
    """

    async def everyone() -> Histogram:
        histogram = Histogram()
        numbers = iter(range(count))

        async def worker() -> None:
            for i in numbers:
                source = sources[i % len(sources)] if sources else ""
                source_port = source_ports[i % len(source_ports)] if source_ports else 0
                try:
                    sock = open_socket(host, target, proto, source, source_port)
                    histogram.add(await asyncio.wait_for(exchange(sock, target, port), timeout))
                except OSError as error:
                    histogram.add(kind_of(error))
                if interval:
                    await asyncio.sleep(interval)

        await asyncio.gather(*(worker() for _ in range(at_once)))
        return histogram

    return asyncio.run(everyone())
