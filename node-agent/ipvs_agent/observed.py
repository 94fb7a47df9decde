"""How far what is wanted has come into the kernel, as a resource version for the report. Pure."""

from collections import deque
from collections.abc import Iterable, Set
from typing import NamedTuple

from ipvs_agent.ledger import Owner
from ipvs_api.meta import number_of


class _Arrival(NamedTuple):
    """Plans that came, up to a resource version. ``owners`` None: all there were."""

    resource_version: str
    owners: Set[Owner] | None

    def waits_for(self, owner: Owner) -> bool:
        return self.owners is None or owner in self.owners


class Observed:
    """``version``: every plan up to here is in the kernel, or has failed; empty for not known."""

    def __init__(self) -> None:
        self.version = ""
        self._taken = ""
        """The last that arrived."""
        self._arrived: deque[_Arrival] = deque()
        """What is not all in the kernel yet."""
        self._new: set[Owner] = set()
        """Whose plans came since then."""

    def arrive(self, owners: Iterable[Owner], resource_version: str) -> None:
        """These plans were taken. ``resource_version``: up to here all have been; empty for not known."""
        self._new.update(owners)
        if not resource_version or resource_version == self._taken:
            return
        first, turned_back = not self._taken, number_of(resource_version) < number_of(self._taken)
        if turned_back:
            self._arrived.clear()
            self.version = ""
        self._arrived.append(_Arrival(resource_version, None if first or turned_back else frozenset(self._new)))
        self._taken, self._new = resource_version, set()

    def settle(self, outstanding: Iterable[Owner], enough: int) -> set[Owner]:
        """Move the version past what is in the kernel.

        ``outstanding``: plans that are not; returns them, or more than ``enough`` of them.
        """
        found: set[Owner] = set()
        undone = not self._arrived
        for owner in outstanding:
            found.add(owner)
            undone = undone or self._arrived[0].waits_for(owner)
            if undone and len(found) > enough:
                return found
        while self._arrived and not any(map(self._arrived[0].waits_for, found)):
            self.version = self._arrived.popleft().resource_version
        return found
