"""From a value to the virtual services that name it."""

from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar


class Key(NamedTuple):
    """A VirtualService."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Owner(NamedTuple):
    """An address belongs to one namespace and, since the directors answer for it, to one group."""

    namespace: str
    group: str


class Party(NamedTuple):
    """A virtual service, and under what it names something."""

    owner: Owner
    key: Key


T = TypeVar("T")


class Index(Generic[T]):
    """One party is kept bare, several by their owners: most values have one, and there are 100,000 of them."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: dict[T, Party | dict[Owner, set[Key]]] = {}

    def add(self, value: T, party: Party) -> None:
        row = self._rows.setdefault(value, party)
        if isinstance(row, dict):
            row.setdefault(party.owner, set()).add(party.key)
        elif row != party:
            self._rows[value] = {row.owner: {row.key}}
            self.add(value, party)

    def discard(self, value: T, party: Party) -> None:
        """Nothing where it is not there: what a virtual service asks for and what it has may both name it."""
        row = self._rows.get(value)
        if isinstance(row, dict):
            found = row.get(party.owner, set())
            found.discard(party.key)
            if not found:
                row.pop(party.owner, None)
            if len(row) == 1:
                ((owner, keys),) = row.items()
                if len(keys) == 1:
                    self._rows[value] = Party(owner, *keys)
        elif row == party:
            del self._rows[value]

    def __getitem__(self, value: T) -> set[Key]:
        row = self._rows.get(value)
        if row is None:
            return set()
        return set().union(*row.values()) if isinstance(row, dict) else {row.key}

    def parties(self, value: T) -> Iterator[Party]:
        row = self._rows.get(value)
        if isinstance(row, Party):
            yield row
        elif row is not None:
            yield from (Party(owner, key) for owner, keys in row.items() for key in keys)

    def shared(self, value: T) -> bool:
        """Several name it."""
        return isinstance(self._rows.get(value), dict)

    def disputed(self, value: T) -> bool:
        """Several owners name it."""
        row = self._rows.get(value)
        return isinstance(row, dict) and len(row) > 1

    def __iter__(self) -> Iterator[T]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Index) and self._rows == other._rows

    __hash__ = None  # type: ignore[assignment]  # compared as a value, never a key
