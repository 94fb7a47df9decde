"""Since when nodes have been behind, however often plans change meanwhile."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from ipvs_planner.index import Key


class Mark(NamedTuple):
    """A plan's version that a node has not reached, and since when it should have (RFC 3339)."""

    version: int
    since: str


class Lags:
    """Of each node that lags one mark at a time: reached, it makes room for what is current then.

    So a node that follows is never behind for longer than it takes for one change, and one that is stuck is behind
    since its first. Kept in memory only.
    """

    def __init__(self) -> None:
        self._marks: dict[Key, dict[str, Mark]] = {}

    def behind(
        self, key: Key, wanted: Mapping[str, int], reached: Mapping[str, int], now: str, *, since: str = ""
    ) -> dict[str, float]:
        """Seconds for which each node has been behind; those that are not are left out.

        ``wanted``: the versions that nodes should have; ``reached``: what they have, as far as they said so. ``since``:
        what holds for those of whom nothing is remembered; by default it begins now.
        """
        known = self._marks.pop(key, {})
        marks = {}
        for node, version in wanted.items():
            has = reached.get(node, -1)
            if has >= version:
                continue
            mark = known.get(node)
            if mark is None:
                mark = Mark(version, since or now)
            elif has >= mark.version:
                mark = Mark(version, now)
            marks[node] = mark
        if marks:
            self._marks[key] = marks
        return {node: _seconds(mark.since, now) for node, mark in marks.items()}

    def forget(self, key: Key) -> None:
        self._marks.pop(key, None)


def _seconds(since: str, now: str) -> float:
    return max(0.0, (datetime.fromisoformat(now) - datetime.fromisoformat(since)).total_seconds())
