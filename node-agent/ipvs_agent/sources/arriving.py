"""Plans as they arrive from an API server, slice by slice: which are whole, and up to which version. Pure.

``now``: seconds of a clock that only goes forward.
"""

from collections.abc import Iterable, Iterator, Mapping

from ipvs_agent.ledger import Owner
from ipvs_agent.sources.gathered import Gathered, Slice, unread_slice
from ipvs_api.meta import number_of
from ipvs_api.plan import VirtualServicePlanSpec
from ipvs_kube.changes import Change, Gone, Put, Replaced, Unreadable

SETTLE, LONGEST = 0.1, 1.0
"""Seconds without a change, and from the first one, after which a plan of several slices is taken as it is: they are
written one after the other, and a real server may be in none of them in between."""


class Arriving:
    """``stored``: whose plans are in force since before this process."""

    def __init__(self, stored: Iterable[Owner]) -> None:
        self.settle = SETTLE
        self._earlier = set(stored)
        """Not heard of yet."""
        self._gathered = Gathered()
        self._touched: dict[Owner, tuple[float, float, str]] = {}
        """Whose plans have changed, first and last; and the version before, which only grows from one to the next."""
        self._unreadable: dict[Owner, str] = {}
        self._version = self._listed = ""
        """Of the last change, and of the last list."""

    @property
    def waiting(self) -> bool:
        """Something has changed that has not been given yet."""
        return bool(self._touched)

    @property
    def given(self) -> str:
        """Up to this version all plans have been given; empty before those of the first list have been."""
        return next((before for _, _, before in self._touched.values()), self._version)

    @property
    def unreadable(self) -> Mapping[Owner, str]:
        """Plans that cannot be read, why."""
        return self._unreadable

    def go_on_from(self, version: str) -> bool:
        """After the first list: what had been taken up to ``version`` (empty: nothing) is no news.

        False where history does not reach it: it was turned back since.
        """
        reaches = number_of(version) <= number_of(self._listed)
        if reaches and number_of(version) > number_of(self._version):
            self._version = version
        self._version = self._version or self._listed
        return reaches

    def take(self, change: Change, now: float) -> None:
        if isinstance(change, Replaced):
            self._replace(change, now)
        elif isinstance(change, Put):
            self._touch(self._gathered.put(change.object), now)
            self._version = change.resource_version
        elif isinstance(change, Unreadable):
            self._touch(self._gathered.put(_unread(change)), now)
            self._version = change.resource_version
        elif isinstance(change, Gone):
            self._touch(self._gathered.remove(change.name), now)
            self._version = change.resource_version

    def _replace(self, change: Replaced[Slice], now: float) -> None:
        """All there is. The version moves only as far as something in it is new, so that a list alone is no news."""
        slices = [*change.objects, *map(_unread, change.unreadable)]
        known, self._listed = number_of(self._version), change.resource_version
        turned_back = number_of(self._listed) < known
        # A version of another history says nothing of what is in an object.
        gone = self._gathered.retain(() if turned_back else (each.metadata.name for each in slices))
        for each in slices:
            self._touch(self._gathered.put(each), now)
        if "" not in self._gathered:  # which may be any of the earlier ones
            gone |= {owner for owner in self._earlier if owner not in self._gathered}
            self._earlier = set()
        self._touch(gone, now)
        newest = max((number_of(each.metadata.resource_version) for each in slices), default=-1)
        if gone or turned_back:
            self._version = self._listed
        elif newest > known:
            self._version = str(newest)

    def _touch(self, owners: Iterable[Owner], now: float) -> None:
        for owner in owners:
            first, _, before = self._touched.get(owner, (now, now, self._version))
            self._touched[owner] = first, now, before

    def ripe(self, now: float) -> Iterator[tuple[Owner, VirtualServicePlanSpec | None]]:
        """Plans to be given now, each once; None for those that are gone."""
        for owner, (first, last, _) in list(self._touched.items()):
            if self._gathered.is_cut(owner) and now - last < self.settle and now - first < LONGEST:
                continue
            self._unreadable.pop(owner, None)
            if owner in self._gathered:
                problem = self._gathered.problem(owner)
                plan = None if problem else self._gathered.plan(owner)
                if problem:
                    self._unreadable[owner] = problem
                if plan is None:
                    if problem or now - first >= LONGEST:
                        del self._touched[owner]
                    continue
                yield owner, plan
            elif owner:
                yield owner, None
            del self._touched[owner]


def _unread(change: Unreadable) -> Slice:
    return unread_slice(change.name, change.resource_version, f"this agent cannot read it: {change.words}")
