"""Netlink requests (``netlink(7)``): many in one send, bounded, fenced; every answer matched by its sequence number.

The kernel works a send off before ``send`` returns, so all answers are waiting then. Only the last message of a send
asks for an acknowledgement (the fence); the others answer only when they fail. An acknowledgement costs as much as the
request. Where answers were lost, since the receive buffer was full (ENOBUFS) or no fence came, what was not answered is
told as unknown: look at the kernel again.

Used from one thread, without an event loop. A kernel that never returns from a request blocks its thread: no timeout of
a socket covers that; those here only cover answers that do not come.
"""

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from ipvs_agent.kernel.attributes import Reader
from ipvs_agent.kernel.datagrams import Datagrams

F_REQUEST, F_ACK, F_DUMP, F_DUMP_INTERRUPTED = 0x1, 0x4, 0x300, 0x10

UNKNOWN = -1
"""``Reply.error`` when the kernel's answer was lost."""

RECEIVE_BUFFER = 4 << 20
"""Bytes; an error takes about 1 kB of it."""

TIMEOUT = 10.0
"""Seconds until an answer that does not come is given up."""

SEND_BYTES = 16 << 10
"""More failing messages in one send than the receive buffer has room for errors would lose some."""

SEND_SECONDS = 0.02
"""What a send should take at most. The next one is as large as the last one's speed allows: where a message is slow (a
destination added while the kernel searches thousands of deleted ones, a large ``mh`` service), others get their turn.
"""

_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
_TYPE_DONE, _FIRST_TYPE = 3, 16
_F_CAPPED, _F_ACK_TLVS = 0x100, 0x200
_ERROR_TEXT = Reader([((1,), "s"), ((2,), "s")])  # NLMSGERR_ATTR_MSG, _OFFS
_SO_RCVBUFFORCE = 33
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_ATTEMPTS = 5


Message = tuple[int, int, bytes]
"""A ``Request`` or as much in a plain tuple, of which many are made faster."""


class Request(NamedTuple):
    """One message: its type, ``F_*`` besides REQUEST and ACK, and what follows the netlink header."""

    type: int
    flags: int
    body: bytes


class Reply(NamedTuple):
    """``error``: 0, a positive errno, or ``UNKNOWN``. ``text``: the kernel's words. ``bodies``: what was found."""

    error: int = 0
    text: str = ""
    bodies: Sequence[bytes] = ()

    @property
    def words(self) -> str:
        """The error for people."""
        if self.error == UNKNOWN:
            return "the kernel's answer was lost"
        return f"{os.strerror(self.error)} ({self.text})" if self.text else os.strerror(self.error)


_DONE, _LOST = Reply(), Reply(UNKNOWN)


class NetlinkError(OSError):
    """A request that could not be made or was not answered; ``errno`` and ``strerror`` as the kernel or we say it."""


class RequestSocket:
    """One socket in the network namespace of the thread that makes it. OSError where the kernel has no netlink.

    ``inner_header``: bytes between the netlink header and what answers tell.
    """

    def __init__(
        self, protocol: int, *, inner_header: int = 0, receive_buffer: int = RECEIVE_BUFFER, timeout: float = TIMEOUT
    ) -> None:
        self._protocol = protocol
        self._receive_buffer = receive_buffer
        self._timeout = timeout
        self._inner_header = inner_header
        self._sequence = 0
        self._send_bytes = SEND_BYTES
        self._datagrams = Datagrams()
        self._socket = self._open()

    def _open(self) -> socket.socket:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, self._protocol)
        try:
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, self._receive_buffer)
        except PermissionError:  # reading may need no rights, and a reader no room for errors
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        for option in (_CAP_ACK, _EXT_ACK):
            with suppress(OSError):  # older kernels: longer errors, no words
                opened.setsockopt(_SOL_NETLINK, option, 1)
        opened.bind((0, 0))
        return opened

    def close(self) -> None:
        """The socket is of no use afterwards."""
        self._socket.close()

    def __enter__(self) -> "RequestSocket":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def exchange(self, requests: Sequence[Message]) -> list[Reply]:
        """Send all, in order; one reply for each."""
        return [reply for replies in self.sends(requests) for reply in replies]

    def sends(self, requests: Sequence[Message]) -> Iterator[list[Reply]]:
        """The same, a send at a time: the replies to its requests. The socket is free for other requests in between."""
        at = 0
        while at < len(requests):
            end, size = at, 0
            while end < len(requests):
                length = _HEADER.size + len(requests[end][2])
                if end > at and size + length > self._send_bytes:
                    break
                size += length
                end += 1
            started = time.monotonic()
            replies = self._send(requests[at:end])
            took = max(time.monotonic() - started, 1e-6)
            self._send_bytes = min(int(size * SEND_SECONDS / took), 2 * self._send_bytes + 16, SEND_BYTES)
            at = end
            yield replies

    def _send(self, requests: Sequence[Message]) -> list[Reply]:
        try:
            first, fence = self._transmit(requests, F_ACK)
        except OSError as failure:
            return [Reply(failure.errno or errno.EIO, "the request could not be sent")] * len(requests)
        found: dict[int, Reply] = {}
        lost = False
        while fence not in found:
            try:
                datagrams = self._receive(0 if lost else self._timeout)
            except OSError as failure:
                if failure.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            if not datagrams:
                lost = True
                break
            for kind, flags, sequence, bodies in self._messages(datagrams):
                if kind < _FIRST_TYPE:
                    found[sequence] = _result(kind, flags, bodies[0])
        replies = [_LOST if lost else _DONE] * len(requests)
        for sequence, reply in found.items():
            if first <= sequence <= fence:
                replies[sequence - first] = reply
        return replies

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """Send requests that answer by themselves, in one send (16 kB at most, one dump at most); a reply for each.

        A dump during which the table changed, or whose answers were lost, is taken again, five times at most.
        NetlinkError then, and where an answer does not come in time; the socket is usable afterwards.
        """
        why = "its table kept changing"
        for _ in range(_ATTEMPTS):
            try:
                replies = self._ask(requests)
            except OSError as failure:
                self._reopen()
                if failure.errno != errno.ENOBUFS:
                    raise
                why = "its answers did not fit the receive buffer"
                continue
            except BaseException:
                self._reopen()  # a dump that was left half-read would refuse the next one (EBUSY)
                raise
            if replies is not None:
                return replies
        raise NetlinkError(errno.EAGAIN, f"the kernel could not be read in {_ATTEMPTS} attempts: {why}")

    def _ask(self, requests: Sequence[Request]) -> list[Reply] | None:
        first, last = self._transmit(requests, 0)
        dumps: dict[int, list[bytes]] = {
            sequence: [] for sequence, request in enumerate(requests, first) if request.flags & F_DUMP
        }
        found: dict[int, Reply] = {}
        seen = 0
        while len(found) < len(requests):
            datagrams = self._receive(self._timeout)
            if not datagrams:
                raise NetlinkError(errno.ETIMEDOUT, f"the kernel did not answer in {self._timeout:g} s")
            for kind, flags, sequence, bodies in self._messages(datagrams):
                if not first <= sequence <= last:
                    continue  # left over from an exchange that lost its fence
                seen |= flags
                if kind < _FIRST_TYPE:
                    found[sequence] = _result(kind, flags, bodies[0], dumps.get(sequence, ()))
                elif sequence in dumps:
                    dumps[sequence] += bodies
                else:
                    found[sequence] = Reply(bodies=bodies)
        return None if seen & F_DUMP_INTERRUPTED else [found[sequence] for sequence in range(first, last + 1)]

    def dump(self, kind: int, body: bytes) -> Sequence[bytes]:
        """Everything that a dump request answers, a message each; NetlinkError with the kernel's words otherwise."""
        (reply,) = self.ask([Request(kind, F_DUMP, body)])
        if reply.error:
            raise NetlinkError(reply.error, reply.words)
        return reply.bodies

    def _transmit(self, requests: Sequence[Message], last_flags: int) -> tuple[int, int]:
        """Sequence numbers of the first and the last request, sent as one datagram."""
        if self._sequence + len(requests) > 0xFFFF_FFFF:
            self._sequence = 0
        first, last = self._sequence + 1, self._sequence + len(requests)
        self._sequence = last
        parts: list[bytes] = []
        for sequence, (kind, flags, body) in enumerate(requests, first):
            flags |= F_REQUEST | (last_flags if sequence == last else 0)
            parts.append(_HEADER.pack(16 + len(body), kind, flags, sequence, 0))
            parts.append(body)
            if len(body) % 4:
                parts.append(bytes(-len(body) % 4))
        self._socket.send(b"".join(parts))
        return first, last

    def _receive(self, seconds: float) -> list[bytes]:
        """Datagrams that are waiting, or the first to come in time; empty when none does. OSError: ENOBUFS."""
        found = self._datagrams.waiting(self._socket.fileno())
        if not found and seconds:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            if poll.poll(seconds * 1000):
                found = self._datagrams.waiting(self._socket.fileno())
        return found

    def _messages(self, datagrams: list[bytes]) -> Iterator[tuple[int, int, int, list[bytes]]]:
        """Type, flags and sequence number of one message after the other, and what it tells; equal headers at once."""
        for datagram in datagrams:
            at, end = 0, len(datagram)
            while at + 16 <= end:
                header = datagram[at : at + 16]
                length, kind, flags, sequence, _ = _HEADER.unpack(header)
                skipped = 16 + (self._inner_header if kind >= _FIRST_TYPE else 0)
                bodies = []
                while datagram.startswith(header, at):
                    if not 16 <= length <= end - at:
                        raise NetlinkError(errno.EBADMSG, f"a message of {length} bytes where {end - at} were received")
                    bodies.append(datagram[at + skipped : at + length])
                    at += (length + 3) & ~3
                yield kind, flags, sequence, bodies

    def _reopen(self) -> None:
        self._socket.close()
        self._socket = self._open()


def _result(kind: int, flags: int, body: bytes, found: Sequence[bytes] = ()) -> Reply:
    """``struct nlmsgerr`` or the end of a dump: the error, the request's header (at the end none), words."""
    code = _ERROR.unpack_from(body)[0] if len(body) >= 4 else 0
    if code >= 0:
        return Reply(bodies=found) if found else _DONE
    words = b""
    if flags & _F_ACK_TLVS:
        echoed = 0 if kind == _TYPE_DONE else 16 if flags & _F_CAPPED else int(_HEADER.unpack_from(body, 4)[0])
        words = _ERROR_TEXT.read(body[4 + ((echoed + 3) & ~3) :])[0] or b""
    return Reply(-code, words.rstrip(b"\0").decode(errors="replace"))
