"""UDP ports that decapsulate GUE: generic netlink ``fou`` (``net/ipv4/fou_core.c``).

The kernel does not tell who made a port: the caller knows which are ours. Ports bound to an address, a peer or an
interface, and ports of plain FOU, are nobody's row here; on the same port number they make a write fail.
"""

import errno
import struct
from collections.abc import Iterable, Sequence

from ipvs_agent.kernel.attributes import attribute
from ipvs_agent.kernel.genetlink import FamilyMissingError, GenericFamily
from ipvs_agent.kernel.netlink import Reply
from ipvs_agent.kernel.rtnetlink import FAMILY, VERSION, attributes, number, outcome_of
from ipvs_agent.rows import FouKey, FouRow
from ipvs_agent.table import Change, Outcome, Verdict

_VERSION = 1
_ADD, _DELETE, _GET = 1, 2, 3
_PORT, _AF, _IPPROTO, _TYPE, _LOCAL_V4, _LOCAL_V6, _PEER_V4, _PEER_V6, _PEER_PORT, _IFINDEX = (
    1,
    2,
    3,
    4,
    6,
    7,
    8,
    9,
    10,
    11,
)
_GUE = 2
_BOUND = (_LOCAL_V4, _LOCAL_V6, _PEER_V4, _PEER_V6, _PEER_PORT, _IFINDEX)


class FouTable:
    """GUE ports of this network namespace, anybody's."""

    def __init__(self) -> None:
        self._family: GenericFamily | None = None

    def close(self) -> None:
        if self._family is not None:
            self._family.close()
            self._family = None

    def _open(self) -> GenericFamily:
        """The family, once the kernel has it: modules may be loaded while we run. FamilyMissingError until then."""
        if self._family is None:
            self._family = GenericFamily("fou", "fou")
        return self._family

    def read(self, keys: Iterable[FouKey] | None = None) -> dict[FouKey, FouRow]:
        """All of them, whoever made them; none on a kernel without FOU. NetlinkError when the dump is refused."""
        wanted = None if keys is None else set(keys)
        try:
            bodies = self._open().dump(_message(_GET))
        except FamilyMissingError:
            return {}
        rows = {}
        for body in bodies:
            found = attributes(body)
            if number(found.get(_TYPE)) != _GUE or any(any(found.get(kind, b"")) for kind in _BOUND):
                continue
            key = FouKey(VERSION[number(found.get(_AF))], int.from_bytes(found[_PORT], "big"))
            if wanted is None or key in wanted:
                rows[key] = FouRow()
        return rows

    def write(self, changes: Sequence[Change[FouKey, FouRow]]) -> list[Outcome[FouKey]]:
        """As ``Table.write``; a kernel without FOU is told with the module to load."""
        if not changes:
            return []
        try:
            family = self._open()
        except FamilyMissingError as missing:
            return [
                Outcome(change.key, Verdict.DONE)
                if change.new is None
                else Outcome(change.key, Verdict.FAILED, f"GUE port {change.key.port}: {missing.strerror}")
                for change in changes
            ]
        replies = family.transact([_request(change) for change in changes])
        return [_outcome(change, reply) for change, reply in zip(changes, replies, strict=True)]


def _message(command: int, *attached: bytes) -> bytes:
    return struct.pack("=BBH", command, _VERSION, 0) + b"".join(attached)


def _request(change: Change[FouKey, FouRow]) -> bytes:
    key = change.key
    named = (attribute(_PORT, key.port.to_bytes(2, "big")), attribute(_AF, bytes([FAMILY[key.family]])))
    if change.new is None:
        return _message(_DELETE, *named)
    return _message(_ADD, *named, attribute(_TYPE, bytes([_GUE])))


def _outcome(change: Change[FouKey, FouRow], reply: Reply) -> Outcome[FouKey]:
    key = change.key
    words = f"UDP port {key.port} (IPv{key.family})"
    if change.new is None:
        # What the kernel answers for a port that it does not have.
        return outcome_of(key, reply, f"{words}: GUE cannot be ended", (errno.EINVAL, errno.ENOENT))
    if reply.error in (errno.EALREADY, errno.EADDRINUSE):
        message = f"{words} is taken ({reply.words}), so GUE cannot use it: choose another port, or stop what uses it"
        return Outcome(key, Verdict.FOREIGN, message)
    return outcome_of(key, reply, f"{words}: GUE cannot be started")
