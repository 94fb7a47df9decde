"""What every kernel table is to the loop: keys and rows to read, changes to write, an outcome for each change."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar

K = TypeVar("K")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Change(Generic[K, R]):
    """Make ``key``'s row ``new`` where it was ``old``; None: absent."""

    key: K
    old: R | None
    new: R | None


class Verdict(Enum):
    """``UNKNOWN``: the kernel's answer was lost (ENOBUFS, no fence), read the key back.

    ``FOREIGN``: somebody else's row stands there and was left alone.
    """

    DONE = "done"
    FAILED = "failed"
    FOREIGN = "foreign"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Outcome(Generic[K]):
    """How one change went; ``message`` says what the kernel said and what to do, empty when done."""

    key: K
    verdict: Verdict
    message: str = ""


class Table(Protocol[K, R]):
    """One kernel table, used from one thread, without an event loop.

    ``read(None)`` dumps everything that is ours or could collide with ours; ``read(keys)`` only these, absent ones left
    out. ``write`` applies the changes in the order given and never raises for what the kernel refuses.
    """

    def read(self, keys: Iterable[K] | None = None) -> dict[K, R]: ...

    def write(self, changes: Sequence[Change[K, R]]) -> list[Outcome[K]]: ...


def diff(desired: Mapping[K, R], observed: Mapping[K, R], keys: Iterable[K] | None = None) -> list[Change[K, R]]:
    """Changes that make ``observed`` equal ``desired``, additions and changes before removals.

    ``keys`` limits the comparison to these; by default every key of either side.
    """
    if keys is None:
        keys = desired.keys() | observed.keys()
    ups: list[Change[K, R]] = []
    downs: list[Change[K, R]] = []
    for key in keys:
        want, have = desired.get(key), observed.get(key)
        if want == have:
            continue
        (ups if want is not None else downs).append(Change(key, have, want))
    return ups + downs
