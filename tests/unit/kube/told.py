"""What a reflector has told, to be waited for."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgspec

from ipvs_api.meta import ObjectMeta
from ipvs_kube.api import Api
from ipvs_kube.changes import Bookmark, Change, Gone, Put, Replaced
from ipvs_kube.reflector import Reflector
from ipvs_kube.resources import Resource
from ipvs_lab.net.waiting import await_condition


class Thing(msgspec.Struct, frozen=True):
    """Any object."""

    metadata: ObjectMeta


class Told:
    """A reflector while in context, and what its sink got."""

    def __init__(self, api: Api, resource: Resource, **selection: str) -> None:
        self.batches: list[list[Change]] = []
        self.reflector: Reflector[Thing] = Reflector(
            api, resource, msgspec.json.Decoder(Thing).decode, self._take, **selection
        )
        self.refuse: Callable[[list[Change]], bool] = lambda _: False
        """Batches that the sink raises for."""
        self._lock = threading.Lock()

    def _take(self, changes: list[Change]) -> None:
        with self._lock:
            self.batches.append(changes)
        if self.refuse(changes):
            raise ValueError("the sink cannot take this")

    @property
    def changes(self) -> list[Change]:
        with self._lock:
            return [change for batch in self.batches for change in batch]

    @property
    def words(self) -> list[str]:
        """Every change in short."""
        return [in_short(change) for change in self.changes]

    def until(self, holds: Callable[["Told"], Any], seconds: float = 10.0) -> None:
        """Until this holds of what was told; AssertionError with all of it otherwise."""

        def said() -> bool:
            assert holds(self), f"told: {self.words}"
            return True

        await_condition(said, seconds, "a reflector", every=0.005)

    def until_told(self, words: str, times: int = 1, seconds: float = 10.0) -> None:
        self.until(lambda told: told.words.count(words) >= times, seconds)

    def forget(self) -> None:
        with self._lock:
            self.batches.clear()

    def __enter__(self) -> "Told":
        self.reflector.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reflector.stop()
        self.reflector.join(40)


def in_short(change: Change) -> str:
    """Without what differs from run to run."""
    if isinstance(change, Replaced):
        return f"all: {' '.join(sorted(each.metadata.name for each in change.objects))}".rstrip()
    if isinstance(change, Put):
        return f"put {change.object.metadata.name}"
    if isinstance(change, Gone):
        return f"gone {change.name}"
    if isinstance(change, Bookmark):
        return f"up to {change.resource_version}"
    return type(change).__name__
