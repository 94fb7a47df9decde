"""Those of one DirectorGroup that lack addresses, and which of them get what is free: the oldest first."""

from bisect import bisect_left, insort
from typing import NamedTuple

from ipvs_planner.claims import UNKNOWN_AGE
from ipvs_planner.index import Key
from ipvs_planner.packed import V4, V6


class Number(NamedTuple):
    """How many addresses of each family."""

    v4: int = 0
    v6: int = 0

    def families(self) -> tuple[tuple[int, int], ...]:
        """By packed length, IPv4 first."""
        return (V4, self.v4), (V6, self.v6)

    def within(self, other: "Number") -> bool:
        return self.v4 <= other.v4 and self.v6 <= other.v6

    def plus(self, other: "Number", times: int = 1) -> "Number":
        return Number(self.v4 + times * other.v4, self.v6 + times * other.v6)


NONE = Number()


class Waiting:
    """A virtual service gets all that it lacks or nothing, so one that lacks more than is free keeps nobody waiting."""

    def __init__(self) -> None:
        self._lacks: dict[Key, tuple[str, Number]] = {}
        self._order: list[tuple[str, Key]] = []
        self._total = NONE
        self._served: set[Key] | None = None
        self._left = NONE
        """What has to be free for ``_served`` to be right still: each of them that got what it lacks took as much."""
        self._refused: set[Key] = set()
        """Who was told that there is not enough, and not yet to look again."""

    def put(self, key: Key, created: str, lack: Number) -> None:
        """``created``: RFC 3339, empty for unknown. Lacking nothing, it waits no more."""
        age = created or UNKNOWN_AGE
        if self._lacks.get(key, ("", NONE)) == (age, lack):
            return
        self._take_out(key)
        if lack == NONE:
            self._refused.discard(key)
            return
        self._lacks[key] = (age, lack)
        insort(self._order, (age, key))
        self._total = self._total.plus(lack)
        self._served = None

    def _take_out(self, key: Key) -> None:
        if key not in self._lacks:
            return
        age, lack = self._lacks.pop(key)
        del self._order[bisect_left(self._order, (age, key))]
        self._total = self._total.plus(lack, -1)
        if self._served is not None and key in self._served:
            self._served.discard(key)
            self._left = self._left.plus(lack, -1)

    def __len__(self) -> int:
        return len(self._lacks)

    def lack(self, key: Key) -> Number:
        return self._lacks[key][1] if key in self._lacks else NONE

    def gets(self, key: Key, free: Number) -> bool:
        """Whether what is free is enough for ``key``, which waits, when the older are served before it."""
        if self._total.within(free) or (self._lacks[key][1].within(free) and key in self._serve(free)):
            return True
        self._refused.add(key)
        return False

    @property
    def anybody_refused(self) -> bool:
        return bool(self._refused)

    def relieved(self, free: Number) -> set[Key]:
        """Who was told that there is not enough, and there is now. They are told once."""
        found = self._refused & self._serve(free)
        self._refused -= found
        return found

    def look_again(self) -> set[Key]:
        """Everybody who was told that there is not enough."""
        found, self._refused = self._refused, set()
        return found

    def _serve(self, free: Number) -> set[Key]:
        if self._served is None or self._left != free:
            self._served, self._left = self._serve_anew(free), free
        return self._served

    def _serve_anew(self, free: Number) -> set[Key]:
        if self._total.within(free):
            return set(self._lacks)
        found = set()
        for _, key in self._order:
            lack = self._lacks[key][1]
            if lack.within(free):
                free = free.plus(lack, -1)
                found.add(key)
        return found
