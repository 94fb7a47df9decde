"""The kernel's IPVS table: services and their destinations, read and written by their keys.

IPVS has no notifications, no marks of who made an entry, and no way to read a destination but all of one service's.
Never flushed: the table belongs to everybody in the network namespace.
"""

import errno
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

from ipvs_agent.kernel import ipvs_codec as codec
from ipvs_agent.kernel import timeouts as settings
from ipvs_agent.kernel.genetlink import GenericFamily
from ipvs_agent.kernel.ipvs_refusals import judge
from ipvs_agent.kernel.netlink import RECEIVE_BUFFER, NetlinkError, Reply
from ipvs_agent.rows import ServiceKey, ServiceRow
from ipvs_agent.services import Activity, join_row
from ipvs_agent.table import Change, Outcome, Verdict

_ONE_DATAGRAM = 10
"""Services that the kernel tells of in one datagram even when it is short of memory for larger ones."""

_DUMPS = 5

_REMEMBERED = 100_000
"""Services of which it is known when they would be deleted."""

_WINDOW = 100
"""Changes whose services are made before any of their destinations (``IpvsTable.writing``)."""


class IpvsTable:
    """The table of the network namespace in which it is made; a ``table.Table[ServiceKey, ServiceRow]``.

    FamilyMissingError (an OSError) where the kernel has no IPVS. Needs CAP_NET_ADMIN in the initial user namespace for
    everything. ``receive_buffer``: bytes.
    """

    def __init__(self, *, receive_buffer: int = RECEIVE_BUFFER) -> None:
        self._family = GenericFamily(codec.FAMILY, "ip_vs", receive_buffer=receive_buffer)
        self._order: dict[ServiceKey, int] = {}
        self._serial = count()

    def close(self) -> None:
        """The table is of no use afterwards."""
        self._family.close()

    def __enter__(self) -> "IpvsTable":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def services(self) -> tuple[dict[ServiceKey, bytes], list[codec.MarkService]]:
        """The packed head of every service by its key, and everybody's services by firewall mark, which have no key.

        Dumped until two dumps name the same services: one of several datagrams misses services that change places
        while it is taken, as when the kernel resizes its hash table (Linux 7.1) after many were added.
        """
        heads, marks = self._dump()
        for _ in range(_DUMPS):
            if len(heads) + len(marks) <= _ONE_DATAGRAM:
                break
            before, marks_before = heads, marks
            heads, marks = self._dump()
            if heads.keys() == before.keys() and marks == marks_before:
                break
        self._remember(heads)
        return heads, marks

    def _remember(self, keys: Iterable[ServiceKey]) -> None:
        """These would be, or were, deleted last, in this order: a flush goes through the table as a dump does."""
        for key in keys:
            self._order.pop(key, None)
            self._order[key] = next(self._serial)
        if len(self._order) > _REMEMBERED:
            self._order = dict(list(self._order.items())[-_REMEMBERED // 2 :])

    def adding_order(self, keys: Iterable[ServiceKey]) -> list[ServiceKey]:
        """These services in the order in which adding them is fastest, as far as dumps and deletions here tell.

        The kernel keeps deleted destinations for minutes and searches every added one among them, the last deleted
        first (``ip_vs_trash_get_dest``). Somebody's flush of 50,000 is mended in half a second by adding them in the
        opposite order, else in 14 s.
        """
        return sorted(keys, key=lambda key: self._order.get(key, -1), reverse=True)

    def _dump(self) -> tuple[dict[ServiceKey, bytes], list[codec.MarkService]]:
        heads: dict[ServiceKey, bytes] = {}
        marks: list[codec.MarkService] = []
        for message in self._family.dump(codec.get_service()):
            found = codec.read_service(message)
            if isinstance(found, codec.MarkService):
                marks.append(found)
            else:
                heads[found[0]] = found[1]
        return heads, marks

    def heads(self) -> dict[ServiceKey, bytes]:
        """The packed head of every service that has a key."""
        return self.services()[0]

    def read(self, keys: Iterable[ServiceKey] | None = None) -> dict[ServiceKey, ServiceRow]:
        """Rows of these services, absent ones left out; None: of all that have a key, anybody's.

        Two requests in one send for each service. An audit of many takes them in slices, to let others have a turn.
        """
        rows: dict[ServiceKey, ServiceRow] = {}
        for key in self.heads() if keys is None else keys:
            found = self._look(key)
            if found is not None:
                head, destinations = found
                # A set, since a dump that others write to may tell of one destination twice.
                rows[key] = join_row(head, set(codec.read_destinations(destinations)))
        return rows

    def activity(self, keys: Iterable[ServiceKey]) -> dict[ServiceKey, dict[bytes, Activity]]:
        """Counters by destination (``services.destination_key``) of these services, absent ones left out."""
        found = {key: self._look(key) for key in keys}
        return {key: codec.read_activities(service[1]) for key, service in found.items() if service is not None}

    def _look(self, key: ServiceKey) -> tuple[bytes, Sequence[bytes]] | None:
        """The packed head, and what the kernel says of each destination; None: there is no such service.

        GET_DEST has no error for a missing service, only nothing to tell; the GET_SERVICE after it says which it was.
        """
        destinations, service = self._family.ask(codec.get_destinations(key), codec.get_service(key))
        if service.error == errno.ESRCH:
            return None
        for reply in (service, destinations):
            if reply.error:
                raise NetlinkError(reply.error, f"reading the IPVS table: {reply.words}")
        found = codec.read_service(service.bodies[0])
        assert not isinstance(found, codec.MarkService), "asked for by its key"
        return found[1], destinations.bodies

    def write(self, changes: Sequence[Change[ServiceKey, ServiceRow]]) -> list[Outcome[ServiceKey]]:
        """Outcomes in the order of the changes. A failure names the service, the real server and the remedy.

        UNKNOWN: an answer was lost, or somebody changed the table since it was read: read the key again.
        """
        outcomes = {index: outcome for finished in self.writing(changes) for index, outcome in finished.items()}
        return [outcomes[index] for index in range(len(changes))]

    def writing(self, changes: Sequence[Change[ServiceKey, ServiceRow]]) -> Iterator[dict[int, Outcome[ServiceKey]]]:
        """The same in bounded sends: after each, the outcomes it finished, by the index of their change.

        In between, the table is free for reads and for writes of other keys. New services are made before any of their
        destinations, a hundred at a time: a NEW_DEST behind a NEW_SERVICE in one send would go into somebody's service
        that appeared under the same key. Among themselves they come in ``adding_order``.
        """
        sequence = self._sequence(changes)
        for at in range(0, len(changes), _WINDOW):
            window = {index: _Progress(changes[index]) for index in sequence[at : at + _WINDOW]}
            yield from self._send(window, [(p, p.messages.pop(0)) for p in window.values() if p.is_new])
            yield _finished(window)
            yield from self._send(window, [(p, message) for p in window.values() for message in p.messages])
        self._remember(change.key for change in changes if change.new is None)

    def _sequence(self, changes: Sequence[Change[ServiceKey, ServiceRow]]) -> list[int]:
        """The indices of the changes as they are sent."""
        sequence = list(range(len(changes)))
        new = {change.key: index for index, change in enumerate(changes) if change.old is None}
        for index, key in zip(new.values(), self.adding_order(new), strict=True):
            sequence[index] = new[key]
        return sequence

    def _send(
        self, window: dict[int, "_Progress"], queue: list[tuple["_Progress", bytes]]
    ) -> Iterator[dict[int, Outcome[ServiceKey]]]:
        asked = iter(queue)
        for replies in self._family.sends([message for _, message in queue]):
            for reply, (progress, message) in zip(replies, asked, strict=False):
                progress.unanswered -= 1
                if reply.error:
                    progress.fail(message, reply)
            yield _finished(window)

    def timeouts(self) -> settings.Timeouts:
        """Time-outs of connections; NetlinkError where the kernel refuses."""
        return settings.read_timeouts(self._ask(settings.get_timeouts(), "reading IPVS time-outs"))

    def set_timeouts(self, timeouts: settings.Timeouts) -> None:
        """Change them; they hold for connections from their next packet on. NetlinkError where the kernel refuses."""
        (reply,) = self._family.transact([settings.set_timeouts(timeouts)])
        if reply.error:
            raise NetlinkError(reply.error, f"setting IPVS time-outs to {timeouts}: {reply.words}")

    def info(self) -> settings.Info:
        """Version and connection table; NetlinkError where the kernel refuses."""
        return settings.read_info(self._ask(settings.get_info(), "reading IPVS information"))

    def _ask(self, message: bytes, what: str) -> bytes:
        (reply,) = self._family.ask(None, message)
        if reply.error:
            raise NetlinkError(reply.error, f"{what}: {reply.words}")
        return reply.bodies[0]


class _Progress:
    """One change on its way: messages still to be sent, answers still to come, what went wrong."""

    def __init__(self, change: Change[ServiceKey, ServiceRow]) -> None:
        self.change = change
        self.messages = codec.messages(change)
        self.is_new = change.old is None and bool(self.messages)
        self.unanswered = len(self.messages)
        self.troubles: list[tuple[Verdict, str]] = []

    def fail(self, message: bytes, reply: Reply) -> None:
        """What the kernel did not do, or did not say. Where it did not make the service, nothing else is sent."""
        self.troubles.append(judge(self.change, message, reply))
        if codec.command_of(message) == codec.NEW_SERVICE:
            self.unanswered = 0

    def outcome(self) -> Outcome[ServiceKey]:
        """Failures before what is unknown; one is told and the others are counted."""
        if not self.troubles:
            return Outcome(self.change.key, Verdict.DONE)
        told = [trouble for trouble in self.troubles if trouble[0] is Verdict.FAILED] or self.troubles
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        return Outcome(self.change.key, told[0][0], told[0][1] + more)


def _finished(window: dict[int, _Progress]) -> dict[int, Outcome[ServiceKey]]:
    """Takes the changes out of the window to which no answer is to come."""
    done = [index for index, progress in window.items() if not progress.unanswered]
    return {index: window.pop(index).outcome() for index in done}
