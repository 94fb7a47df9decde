"""Sets of intervals hold no element twice, and none inside another: the kernel refuses what overlaps.

Rows may overlap (a director's address inside an allowed prefix), so the kernel gets only the widest of each group.
"""

from collections.abc import Iterable

from ipvs_agent.nft.fields import network
from ipvs_agent.nft.sets import SETS
from ipvs_agent.rows import Element, NftKey

Group = tuple[str, Element]
"""A set and what comes before the prefix in its elements: only within a group can prefixes overlap."""


def group_of(key: NftKey) -> Group | None:
    """The group that an element belongs to; None in sets without intervals."""
    return (key.set, key.element[:-1]) if SETS[key.set].interval else None


def widest(keys: Iterable[NftKey]) -> dict[str, NftKey]:
    """Of one group's elements those inside no other, by canonical prefix; equal ones once."""
    found: dict[str, NftKey] = {}
    last = None
    parsed = sorted((network(key.element[-1]), key) for key in keys)
    for prefix, key in parsed:
        if last is not None and prefix.broadcast_address <= last.broadcast_address:  # type: ignore[operator]
            continue
        found[str(prefix)] = key
        last = prefix
    return found
