"""Servers that say who they are, and serve byte streams that can be checked.

One protocol for TCP and SCTP, in lines from the client, as many as it likes on one connection:

    who                            the server's name, and the client's address and port as the server sees them
    echo LENGTH, then the bytes    the same bytes
    stream CHUNK INTERVAL          CHUNK bytes of the pattern every INTERVAL seconds, until the client goes
    download TOTAL CHUNK INTERVAL  TOTAL bytes of the pattern at that pace, then the end; the client may half-close
    GET ...                        the answer of `who` as HTTP

UDP: every datagram is answered with `who`, from the address that it was sent to.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from ipvs_lab.net.process import Child

if TYPE_CHECKING:
    from ipvs_lab.net.hosts import Host

PERIOD = 65521  # a prime: a lost or repeated block of any usual size shows
PATTERN = Random(PERIOD).randbytes(PERIOD)
IP_PKTINFO, IP_FREEBIND = 8, 15
IPV6_RECVPKTINFO, IPV6_PKTINFO, IPV6_FREEBIND = 49, 50, 78
PROTOCOLS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, 132),
}


def pattern(offset: int, length: int) -> bytes:
    """The bytes of the endless pattern from an offset on."""
    start = offset % PERIOD
    return (PATTERN[start:] + PATTERN * (length // PERIOD + 1))[:length]


class Bound(NamedTuple):
    """A server's socket with the name it answers."""

    name: str
    socket: socket.socket


def bind(host: "Host", address: str, port: int, proto: str, name: str) -> Bound:
    """A server's socket on a host. An address that the host does not have (yet) is accepted."""
    kind, number = PROTOCOLS[proto]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with host.inside():
        sock = socket.socket(family, kind, number)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        if proto == "udp":
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        if proto == "udp":
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    sock.bind((address, port))
    if proto != "udp":
        sock.listen(4096)
    return Bound(name or host.name, sock)


def serve(
    hosts: "Host | Iterable[Host]",
    port: int,
    proto: str = "tcp",
    addresses: Iterable[str] = ("0.0.0.0", "::"),
    name: str = "",
) -> Child:
    """Servers on hosts, in one process, which listen when this returns. `name`: what they answer (default: the
    host's name). The child ends with the (first) host's network, or by `kill()`."""
    several = [hosts] if not isinstance(hosts, Iterable) else list(hosts)
    bound = [bind(host, address, port, proto, name) for host in several for address in addresses]
    try:
        descriptors = [one.socket.fileno() for one in bound]
        return several[0].start(lambda: asyncio.run(serving(bound, proto)), f"{proto}-{port}", descriptors)
    finally:
        for one in bound:
            one.socket.close()


async def serving(bound: list[Bound], proto: str) -> None:
    """Serve all sockets, for ever."""
    for one in bound:
        if proto == "udp":
            asyncio.get_running_loop().add_reader(one.socket, answer_datagrams, one)
        else:
            await asyncio.start_server(Connection(one.name).serve, sock=one.socket, backlog=4096)
    await asyncio.Event().wait()


def answer_datagrams(bound: Bound) -> None:
    """Answer what has come. The answer leaves from the address it was asked at, as a careful server's does."""
    with contextlib.suppress(BlockingIOError):
        while True:
            _, extra, _, client = bound.socket.recvmsg(65536, 128)
            answer = f"{bound.name} {client[0]} {client[1]}\n".encode()
            with contextlib.suppress(OSError):  # a client that is gone is not the server's trouble
                bound.socket.sendmsg([answer], [asked_at(one) for one in extra], 0, client)


def asked_at(control: tuple[int, int, bytes]) -> tuple[int, int, bytes]:
    """A received packet information as the one to send with: the same local address, any interface (ip(7))."""
    level, kind, data = control
    if kind == IP_PKTINFO:
        _, _, address = struct.unpack("I4s4s", data[:12])
        return level, kind, struct.pack("I4s4s", 0, address, bytes(4))
    return level, kind, data[:16] + struct.pack("I", 0)


class Connection:
    """What a server does with each connection."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer line after line. A client that goes away ends it, whatever was going on."""
        try:
            client = writer.get_extra_info("peername") or ("", 0)
            while line := await reader.readline():
                if not await self.answer(line.decode(errors="replace").split(), client, reader, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def answer(
        self, words: list[str], client: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one line; whether the connection goes on."""
        who = f"{self.name} {client[0]} {client[1]}\n".encode()
        match words:
            case ["who"]:
                writer.write(who)
            case ["echo", length]:
                writer.write(await reader.readexactly(int(length)))
            case ["stream", chunk, interval]:
                await send_pattern(reader, writer, None, int(chunk), float(interval))
                return False
            case ["download", total, chunk, interval]:
                await send_pattern(reader, writer, int(total), int(chunk), float(interval))
                return False
            case ["GET", *_]:
                head = (
                    "HTTP/1.1 200 OK",
                    "Content-Type: text/plain",
                    f"Content-Length: {len(who)}",
                    "Connection: close",
                )
                writer.write("\r\n".join((*head, "", "")).encode() + who)
                await writer.drain()
                return False
            case _:
                return False
        await writer.drain()
        return True


async def send_pattern(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, total: int | None, chunk: int, interval: float
) -> None:
    """Send the pattern from its beginning. Without a total it goes on until the client closes its side."""
    offset = 0
    while (total is None and not reader.at_eof()) or (total is not None and offset < total):
        size = chunk if total is None else min(chunk, total - offset)
        writer.write(pattern(offset, size))
        offset += size
        await writer.drain()
        await asyncio.sleep(interval)
