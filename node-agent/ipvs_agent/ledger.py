"""Everything that is wanted of this host, by who wants it.

Plans share rows: a hundred services on one VIP want the same address once. The ledger holds the union, and changing one
owner's share costs only what that share touches, however many owners there are.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Generic, TypeVar

from ipvs_agent.rows import KernelState, SysctlRow

K = TypeVar("K")
R = TypeVar("R")

Owner = str
"""``namespace/name`` of a plan, with ``#server`` for its real-server role, or ``~n`` for what lingers after it.

``@node``: what the node as a whole is told.
"""

NODE = "@node"
SERVER = "#server"


def is_plan(owner: Owner) -> bool:
    """True for a plan itself, not for what lingers after it or for the node."""
    return owner != NODE and "~" not in owner and not owner.endswith(SERVER)


TABLES = tuple(field.name for field in fields(KernelState))


class _Shared(Generic[R]):
    """A row that several owners want: almost always the same for all of them."""

    __slots__ = ("by_owner", "counts")

    def __init__(self) -> None:
        self.by_owner: dict[Owner, R] = {}
        self.counts: Counter[R] = Counter()

    def put(self, owner: Owner, row: R) -> None:
        self.drop(owner)
        self.by_owner[owner] = row
        self.counts[row] += 1

    def drop(self, owner: Owner) -> None:
        row = self.by_owner.pop(owner, None)
        if row is not None:
            self.counts[row] -= 1
            if not self.counts[row]:
                del self.counts[row]

    def merged(self) -> R:
        """The union: switches are only raised; of other rows that differ the first owner's stands."""
        if len(self.counts) == 1:
            return next(iter(self.counts))
        rows = list(self.counts)
        if all(isinstance(row, SysctlRow) for row in rows):
            return max(rows, key=lambda row: row.value)  # type: ignore[attr-defined]
        return self.by_owner[min(self.by_owner)]


class Union(Generic[K, R]):
    """The merged rows of one table."""

    def __init__(self) -> None:
        self._single: dict[K, tuple[Owner, R]] = {}
        self._shared: dict[K, _Shared[R]] = {}

    def add(self, owner: Owner, key: K, row: R) -> bool:
        """True when the merged row changed."""
        before = self.get(key)
        single = self._single.get(key)
        if key not in self._shared and (single is None or single[0] == owner):
            self._single[key] = (owner, row)
        else:
            shared = self._shared.setdefault(key, _Shared())
            if single is not None:
                del self._single[key]
                shared.put(*single)
            shared.put(owner, row)
        return self.get(key) != before

    def remove(self, owner: Owner, key: K) -> bool:
        """True when the merged row changed or went."""
        single = self._single.get(key)
        if single is not None:
            if single[0] != owner:
                return False
            del self._single[key]
            return True
        shared = self._shared.get(key)
        if shared is None or owner not in shared.by_owner:
            return False
        before = shared.merged()
        shared.drop(owner)
        if len(shared.by_owner) == 1:
            self._single[key] = next(iter(shared.by_owner.items()))
            del self._shared[key]
        return self.get(key) != before

    def get(self, key: K) -> R | None:
        single = self._single.get(key)
        if single is not None:
            return single[1]
        shared = self._shared.get(key)
        return shared.merged() if shared is not None else None

    def owners(self, key: K) -> tuple[Owner, ...]:
        single = self._single.get(key)
        if single is not None:
            return (single[0],)
        shared = self._shared.get(key)
        return tuple(sorted(shared.by_owner)) if shared is not None else ()

    def __iter__(self) -> Iterator[K]:
        yield from self._single
        yield from self._shared

    def __contains__(self, key: object) -> bool:
        return key in self._single or key in self._shared

    def __len__(self) -> int:
        return len(self._single) + len(self._shared)

    def rows(self) -> dict[K, R]:
        return {key: row for key in self if (row := self.get(key)) is not None}


class Ledger:
    """One ``Union`` for each table of ``KernelState``."""

    def __init__(self) -> None:
        self.tables: dict[str, Union[Any, Any]] = {name: Union() for name in TABLES}
        self._shares: dict[Owner, KernelState] = {}

    def put(self, owner: Owner, share: KernelState | None) -> dict[str, set[Any]]:
        """Replace ``owner``'s share (None: it wants nothing). Returns the keys, by table, whose merged row changed."""
        before = self._shares.pop(owner, None)
        dirty: dict[str, set[Any]] = {}
        if share is not None and share.is_empty():
            share = None
        if share is not None:
            self._shares[owner] = share.compact()
        elif before is None:
            return dirty
        for name, table in self.tables.items():
            old: Mapping[Any, Any] = getattr(before, name) if before is not None else {}
            new: Mapping[Any, Any] = getattr(share, name) if share is not None else {}
            changed = {key for key, row in new.items() if table.add(owner, key, row)}
            changed |= {key for key in old if key not in new and table.remove(owner, key)}
            if changed:
                dirty[name] = changed
        return dirty

    def share(self, owner: Owner) -> KernelState | None:
        return self._shares.get(owner)

    def owners(self) -> tuple[Owner, ...]:
        return tuple(self._shares)
