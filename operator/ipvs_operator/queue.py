"""A queue of keys: each is in it once, worked on by one worker at a time, and tried again with growing pauses.

``Keys`` is the queue itself, which is told the time; ``KeyedQueue`` lets the workers of an event loop wait for it.
"""

import asyncio
import random
from collections import deque
from collections.abc import Hashable
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from ipvs_kube.backoff import Backoff

K = TypeVar("K", bound=Hashable)

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 60.0
"""Seconds, after the first failure of a key and at most."""


class Keys(Generic[K]):
    """Times are seconds of one steady clock. What is added ``bulk`` waits until nothing else does."""

    def __init__(self) -> None:
        self._first: deque[K] = deque()
        self._bulk: deque[K] = deque()
        self._queued: dict[K, bool] = {}
        """Who waits to be worked on, and whether in bulk."""
        self._working: set[K] = set()
        self._again: set[K] = set()
        """Added while they were worked on."""
        self._due: dict[K, float] = {}
        self._timers: list[tuple[float, int, K]] = []
        self._numbers = count()
        self._pauses: dict[K, Backoff] = {}

    def __len__(self) -> int:
        """How many wait to be worked on, without those that are to wait for a time."""
        return len(self._queued) + len(self._again)

    @property
    def settled(self) -> bool:
        """Nothing waits, nothing is being worked on, nothing has failed and is to be tried again."""
        return not (self._queued or self._working or self._again or self._pauses)

    def add(self, key: K, now: float, delay: float = 0.0, *, bulk: bool = False) -> None:
        """Have ``key`` worked on, after ``delay`` seconds; the earliest of several wishes counts."""
        if delay > 0:
            self._later(key, now + delay)
            return
        self._due.pop(key, None)
        if key in self._working:
            self._again.add(key)
        elif key not in self._queued or (self._queued[key] and not bulk):
            self._queued[key] = bulk
            (self._bulk if bulk else self._first).append(key)

    def _later(self, key: K, due: float) -> None:
        if key in self._queued or self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        heappush(self._timers, (due, next(self._numbers), key))

    def take(self, now: float) -> K | None:
        """The next key, which is the caller's until ``done``; None: there is none now."""
        while self._timers and self._timers[0][0] <= now:
            due, _, key = heappop(self._timers)
            if self._due.get(key) == due:
                self.add(key, now)
        for keys, bulk in ((self._first, False), (self._bulk, True)):
            while keys:
                key = keys.popleft()
                if self._queued.get(key) is bulk:
                    del self._queued[key]
                    self._working.add(key)
                    return key
        return None

    def due(self) -> float | None:
        """When a key comes that waits for its time; None: none does."""
        while self._timers and self._due.get(self._timers[0][2]) != self._timers[0][0]:
            heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def done(self, key: K, now: float) -> None:
        """It is nobody's any more; it comes again at once if it was added meanwhile."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key, now)

    def retry(self, key: K, now: float, chance: float, at_least: float = 0.0) -> None:
        """Have a key that failed worked on again, later each time. ``chance``: a random number from 0 to 1."""
        pause = self._pauses.setdefault(key, Backoff(FIRST_PAUSE, LONGEST_PAUSE)).next(chance, at_least)
        self._again.discard(key)
        self.add(key, now, pause)

    def succeeded(self, key: K) -> None:
        """The next failure is a first one."""
        self._pauses.pop(key, None)


class KeyedQueue(Generic[K]):
    """``Keys`` for the workers of one event loop, in whose thread all methods are called."""

    def __init__(self) -> None:
        self._keys: Keys[K] = Keys()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def settled(self) -> bool:
        return self._keys.settled

    def add(self, key: K, delay: float = 0.0, *, bulk: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self._keys.add(key, loop.time(), delay, bulk=bulk)
        self._wake()

    async def get(self) -> K | None:
        """The next key, which is the caller's until ``done``; None: the queue is closed."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            key = self._keys.take(loop.time())
            if key is not None:
                self._wake()
                return key
            self._set_timer(loop)
            waiter = loop.create_future()
            self._waiting.append(waiter)
            await waiter
        return None

    def close(self) -> None:
        """Nobody gets anything any more."""
        self._closed = True
        while self._waiting:
            self._wake()

    def done(self, key: K) -> None:
        self._keys.done(key, asyncio.get_running_loop().time())
        self._wake()

    def retry(self, key: K, at_least: float = 0.0) -> None:
        now = asyncio.get_running_loop().time()
        self._keys.retry(key, now, random.random(), at_least)  # noqa: S311  # jitter
        self._wake()

    def succeeded(self, key: K) -> None:
        self._keys.succeeded(key)

    def _wake(self) -> None:
        """Let one of those who wait look whether there is something for it, or set the clock for it."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():  # or the one who waited was cancelled
                waiter.set_result(None)
                return

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        due = self._keys.due()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(due, self._wake) if due is not None else None
