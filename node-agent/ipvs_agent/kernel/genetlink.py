"""Generic netlink: a family by its name (``Documentation/userspace-api/netlink/intro.rst``)."""

import errno
import struct
from collections.abc import Iterator, Sequence

from ipvs_agent.kernel.attributes import Reader, attribute
from ipvs_agent.kernel.netlink import (
    F_DUMP,
    RECEIVE_BUFFER,
    TIMEOUT,
    UNKNOWN,
    NetlinkError,
    Reply,
    Request,
    RequestSocket,
)

NETLINK_GENERIC = 16
_CONTROL_FAMILY, _GETFAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_GENERIC_HEADER = 4
_FAMILY = Reader([((_FAMILY_ID,), "H"), ((_FAMILY_NAME,), "s")])


class FamilyMissingError(NetlinkError):
    """The kernel has no such generic netlink family; the text names the module."""


class GenericFamily:
    """One family and a socket to speak with it.

    Messages begin with their generic netlink header; answers are told without it. ``module`` is named to people where
    the kernel lacks the family (FamilyMissingError).
    """

    def __init__(
        self, name: str, module: str, *, receive_buffer: int = RECEIVE_BUFFER, timeout: float = TIMEOUT
    ) -> None:
        self.name, self.module = name, module
        self._socket = RequestSocket(
            NETLINK_GENERIC, inner_header=_GENERIC_HEADER, receive_buffer=receive_buffer, timeout=timeout
        )
        try:
            self.identifier = self._resolve()
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        """The family is of no use afterwards."""
        self._socket.close()

    def _resolve(self) -> int:
        """The number that the kernel gave the family when its module was loaded; asking loads it where it can."""
        body = struct.pack("=BBH", _GETFAMILY, 1, 0) + attribute(_FAMILY_NAME, self.name.encode() + b"\0")
        (reply,) = self._socket.ask([Request(_CONTROL_FAMILY, 0, body)])
        if reply.error == errno.ENOENT:
            raise FamilyMissingError(
                errno.ENOENT,
                f"this kernel has no {self.name}: load its module (modprobe {self.module}) or use a kernel that has it",
            )
        if reply.error:
            raise NetlinkError(reply.error, f"asking the kernel for {self.name}: {reply.words}")
        identifier, _ = _FAMILY.read(reply.bodies[0])
        return int(identifier)

    def _moved(self, replies: Sequence[Reply]) -> bool:
        """True when nothing was found because the module was loaded anew since, under another number."""
        if any(reply.error != errno.ENOENT for reply in replies):
            return False
        before, self.identifier = self.identifier, self._resolve()
        return before != self.identifier

    def transact(self, messages: Sequence[bytes]) -> list[Reply]:
        """Send all, in order; one reply for each."""
        return [reply for replies in self.sends(messages) for reply in replies]

    def sends(self, messages: Sequence[bytes]) -> Iterator[list[Reply]]:
        """The same, a send at a time; the family is free for other requests in between."""
        moved = False
        for replies in self._socket.sends([(self.identifier, 0, message) for message in messages]):
            moved = moved or self._moved(replies)
            yield [Reply(UNKNOWN)] * len(replies) if moved else replies

    def ask(self, dump: bytes | None, *messages: bytes) -> list[Reply]:
        """In one send, a dump (unless None) and requests that answer by themselves; a reply for each, in this order."""
        for _ in range(2):
            requests = [Request(self.identifier, 0, message) for message in messages]
            if dump is not None:
                requests.insert(0, Request(self.identifier, F_DUMP, dump))
            replies = self._socket.ask(requests)
            if not self._moved(replies):
                break
        return replies

    def dump(self, message: bytes) -> Sequence[bytes]:
        """Everything that a dump answers, a message each; NetlinkError with the kernel's words if it refuses."""
        (reply,) = self.ask(message)
        if reply.error:
            raise NetlinkError(reply.error, f"{self.name}: {reply.words}")
        return reply.bodies
