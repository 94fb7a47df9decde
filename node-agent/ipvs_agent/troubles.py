"""What the kernel refused, and when to try again."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ipvs_agent.desired.share import Reason
from ipvs_agent.ledger import Owner

FIRST_RETRY, LAST_RETRY = 1.0, 60.0
"""Seconds: the pause after a first refusal, doubled up to the last."""

LAST_QUESTION = 8.0
"""... and up to this one for an address that somebody else answers for: a director that leaves may let go of it late,
nothing tells when, and until then its clients have nobody. Asking is three small frames (RFC 5227, 1.1)."""

Where = tuple[str, Any]
"""A table's name and a key in it."""


@dataclass(frozen=True)
class Trouble:
    """One row that is not as wanted. ``retry_at``: seconds of the agent's clock."""

    owners: tuple[Owner, ...]
    reason: Reason
    message: str
    retry_at: float
    delay: float


class Troubles:
    """Rows that could not be made as wanted, each with its own back-off."""

    def __init__(self) -> None:
        self._by_row: dict[Where, Trouble] = {}

    def add(self, where: Where, owners: tuple[Owner, ...], reason: Reason, message: str, now: float) -> bool:
        """True when this is news: nothing of the kind was known of the row before."""
        before = self._by_row.get(where)
        longest = LAST_QUESTION if reason is Reason.ADDRESS_IN_USE else LAST_RETRY
        delay = min(before.delay * 2, longest) if before is not None else FIRST_RETRY
        self._by_row[where] = Trouble(owners, reason, message, now + delay, delay)
        return before is None or before.message != message

    def clear(self, where: Where) -> bool:
        """True when there was one."""
        return self._by_row.pop(where, None) is not None

    def waiting(self, where: Where, now: float) -> bool:
        """True while the row's pause is not over."""
        trouble = self._by_row.get(where)
        return trouble is not None and now < trouble.retry_at

    def due(self, now: float) -> list[Where]:
        return [where for where, trouble in self._by_row.items() if trouble.retry_at <= now]

    def next_due(self) -> float | None:
        return min((trouble.retry_at for trouble in self._by_row.values()), default=None)

    def blocking(self, tables: Iterable[str]) -> set[Owner]:
        """Owners with a trouble in one of ``tables``."""
        names = set(tables)
        return {owner for (table, _), trouble in self._by_row.items() if table in names for owner in trouble.owners}

    def __contains__(self, where: object) -> bool:
        return where in self._by_row

    def __iter__(self) -> Iterator[tuple[Where, Trouble]]:
        return iter(self._by_row.items())

    def __len__(self) -> int:
        return len(self._by_row)
