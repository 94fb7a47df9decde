"""Whether this operator is the one that works; what changes until then is not lost, and comes first."""

import time
from collections.abc import Callable, Iterable

from ipvs_operator.items import Item
from ipvs_operator.queue import KeyedQueue

RECENT_SECONDS = 60.0
"""What has changed so lately comes first when this operator takes over: the one before may not have done it."""


class Leading:
    """Passes on what has to be reconciled once this operator leads."""

    def __init__(self, queue: KeyedQueue[Item], clock: Callable[[], float] = time.monotonic) -> None:
        self._queue, self._clock = queue, clock
        self._recent: dict[Item, float] = {}
        self.leads = False

    def mark(self, item: Item, *, bulk: bool = False) -> None:
        """``item`` may have to be written."""
        if self.leads:
            self._queue.add(item, bulk=bulk)
            return
        now = self._clock()
        self._recent.pop(item, None)
        self._recent[item] = now
        while self._recent[next(iter(self._recent))] < now - RECENT_SECONDS:
            del self._recent[next(iter(self._recent))]

    def begin(self, everything: Iterable[Item]) -> None:
        """From now on: first what has changed lately, then all there is."""
        self.leads = True
        for item in self._recent:
            self._queue.add(item)
        self._recent.clear()
        for item in everything:
            self._queue.add(item, bulk=True)
