"""What our tables hold, as rows, kept in step with what is written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ipvs_agent.nft.features import Feature
from ipvs_agent.nft.overlaps import Group, group_of
from ipvs_agent.nft.static import needed
from ipvs_agent.rows import HopKey, HopRow, NftKey, NftRow
from ipvs_agent.table import Change

K = TypeVar("K")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class NftState:
    """``elements``: of all sets but those that follow from ``hops``. Both are read only, and follow later writes.

    ``damage``: what somebody did to our tables beyond elements, in words; ``outdated``: they are another version's, or
    were never finished. The next write mends either, also one without changes.
    """

    features: frozenset[Feature] = frozenset()
    elements: Mapping[NftKey, NftRow] = field(default_factory=dict)
    hops: Mapping[HopKey, HopRow] = field(default_factory=dict)
    damage: str = ""
    outdated: bool = False


class Mirror:
    """The rows of one host's tables, with what a change of one row needs to know of others.

    ``groups``: the elements of sets of intervals by what stands before the prefix.
    """

    def __init__(
        self,
        features: Iterable[Feature] = (),
        elements: Mapping[NftKey, NftRow] | None = None,
        hops: Mapping[HopKey, HopRow] | None = None,
    ) -> None:
        self.features = frozenset(features)
        self.elements: dict[NftKey, NftRow] = {}
        self.hops: dict[HopKey, HopRow] = dict(hops or {})
        self.groups: dict[Group, set[NftKey]] = {}
        for key, row in (elements or {}).items():
            self._put(key, row)

    def sharing(self, known: "Mirror") -> "Mirror":
        """The same, of the very keys and rows that ``known`` has where they are equal: those are in use elsewhere, and
        ten thousand of them again are 20 MiB."""
        elements = {key: row for key, row in known.elements.items() if self.elements.get(key) == row}
        hops = {key: row for key, row in known.hops.items() if self.hops.get(key) == row}
        return Mirror(self.features, _and_more(elements, self.elements), _and_more(hops, self.hops))

    def _put(self, key: NftKey, row: NftRow) -> None:
        self.elements[key] = row
        group = group_of(key)
        if group is not None:
            self.groups.setdefault(group, set()).add(key)

    def _drop(self, key: NftKey) -> None:
        if self.elements.pop(key, None) is None:
            return
        group = group_of(key)
        if group is not None:
            self.groups[group].discard(key)
            if not self.groups[group]:
                del self.groups[group]

    def apply(self, elements: Iterable[Change[NftKey, NftRow]], hops: Iterable[Change[HopKey, HopRow]]) -> None:
        """What was written stands now."""
        for change in elements:
            if change.new is not None:
                self._put(change.key, change.new)
            else:
                self._drop(change.key)
        for hop in hops:
            if hop.new is not None:
                self.hops[hop.key] = hop.new
            else:
                self.hops.pop(hop.key, None)

    def forget(self, owner: NftKey | HopKey | Feature) -> None:
        """What cannot be, with the rows that need it."""
        if isinstance(owner, Feature):
            self.features -= {owner}
            for key in [key for key in self.elements if owner in needed([key], [])]:
                self._drop(key)
            for hop in [hop for hop in self.hops if owner in needed([], [hop])]:
                del self.hops[hop]
        elif isinstance(owner, NftKey):
            self._drop(owner)
        else:
            self.hops.pop(owner, None)


def _and_more(rows: dict[K, R], more: Mapping[K, R]) -> dict[K, R]:
    """``rows`` with those of ``more`` whose keys it lacks."""
    if len(rows) < len(more):
        rows.update((key, row) for key, row in more.items() if key not in rows)
    return rows
