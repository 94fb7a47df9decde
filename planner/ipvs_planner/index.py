"""From a value to the virtual services that name it."""

from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar


class Key(NamedTuple):
    """A VirtualService."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


T = TypeVar("T")


class Index(Generic[T]):
    """One name is kept bare, several as a set: most values have one, and there are 100,000 of them."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: dict[T, Key | set[Key]] = {}

    def add(self, value: T, key: Key) -> None:
        row = self._rows.setdefault(value, key)
        if isinstance(row, set):
            row.add(key)
        elif row != key:
            self._rows[value] = {row, key}

    def discard(self, value: T, key: Key) -> None:
        row = self._rows.get(value)
        if isinstance(row, set):
            row.discard(key)
            if len(row) == 1:
                self._rows[value] = row.pop()
        elif row == key:
            del self._rows[value]

    def __getitem__(self, value: T) -> tuple[Key, ...]:
        row = self._rows.get(value)
        if row is None:
            return ()
        return tuple(row) if isinstance(row, set) else (row,)

    def shared(self, value: T) -> bool:
        """Several name it."""
        return isinstance(self._rows.get(value), set)

    def __iter__(self) -> Iterator[T]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Index) and self._rows == other._rows

    __hash__ = None  # type: ignore[assignment]  # compared as a value, never a key
