"""List and watch, for ever: a thread that tells a sink what there is and what changes.

The sink is called in that thread with a batch of changes. A list that failed is never an empty one; what goes wrong
is told once and tried again for ever, with growing pauses.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Generic

import msgspec
import urllib3

from ipvs_kube.api import CONNECT_SECONDS, Api
from ipvs_kube.backoff import Backoff
from ipvs_kube.changes import Absent, Bookmark, Change, Gone, HasMeta, Put, Reader, Replaced, T, Trouble, Unreadable
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import Resource

__all__ = ["Absent", "Bookmark", "Change", "Gone", "HasMeta", "Put", "Reflector", "Replaced", "Trouble", "Unreadable"]

log = logging.getLogger(__name__)

SILENCE_SECONDS = 90.0
"""Longest pause in a watch: bookmarks come about every minute, so a connection that says nothing longer is dead."""

WATCH_SECONDS = 240, 360
"""How long the API server is asked to keep a watch; not the same for all, so that not all end together."""

HEALTHY_SECONDS = 5.0
"""A watch that lived as long, or told anything, has worked: the next pause is the first one again."""

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0

NAMED_UNREADABLE = 5
"""This many unreadable objects of a list are named in the log."""


class Reflector(Generic[T]):
    """One resource, watched. ``decode``: an object's JSON to what is kept of it; ValueError where it cannot be read.

    A sink that raises gets a whole list again.
    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        decode: Callable[[bytes | msgspec.Raw], T],
        sink: Callable[[list[Change]], None],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> None:
        self._api, self._resource, self._sink = api, resource, sink
        self._reader = Reader(decode, f"watching {resource}")
        self._namespace = namespace
        self._label_selector, self._field_selector = label_selector, field_selector
        self._stopped = threading.Event()
        self._response: urllib3.BaseHTTPResponse | None = None
        self._trouble: tuple[int, str] | None = None
        """Status and reason of what was told last, until it works again."""
        self._pauses = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._version = ""
        """The last resourceVersion told; empty: list first."""
        self._interrupted = False
        """The last watch did not end in its time: the API server may have become another one."""
        self._thread = threading.Thread(target=self._run, name=f"watch-{resource.plural}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the watch; returns at once, ``join`` waits for the thread.

        A watch ends within milliseconds, a request that waits for its answer when that comes or times out.
        """
        self._stopped.set()
        response = self._response
        if response is not None:
            with suppress(Exception):  # whatever state it is in, it ends now
                response.shutdown()

    def join(self, timeout: float | None = None) -> None:
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._step()
            except Exception:  # a thread that ends would be blind for ever
                if self._stopped.is_set():
                    return
                log.exception("watching %s: what was told could not be taken; all of it will be told again", self)
                self._version = ""
                self._pause()

    def __str__(self) -> str:
        return str(self._resource)

    def _step(self) -> None:
        """One list, or one watch until it ends, or what became of it."""
        try:
            if not self._version:
                self._list()
            elif self._interrupted and self._turned_back():
                log.warning("watching %s: the API server has not come to version %s; listing anew", self, self._version)
                self._version = ""
            else:
                self._watch()
        except ApiError as error:
            if not self._stopped.is_set():
                self._failed(error)

    def _failed(self, error: ApiError) -> None:
        self._interrupted = True
        if error.gone and self._version:
            log.info("watching %s: %s; listing anew", self, error)
        elif error.not_found:
            self._tell(Absent(), error)
        else:
            self._tell(Trouble(str(error)), error)
        if error.gone or error.not_found:
            self._version = ""
        if error.retry_after is not None:
            self._pauses.reset()  # it is there, and says when to come again
        self._pause(error.retry_after or 0.0)

    def _pause(self, at_least: float = 0.0) -> None:
        self._stopped.wait(self._pauses.next(random.random(), at_least))  # noqa: S311  # jitter

    def _tell(self, change: Absent | Trouble, error: ApiError) -> None:
        """Once, until it works again or something else is wrong."""
        if self._trouble == (error.status, error.reason):
            return
        log.warning("watching %s: %s", self, error)
        self._sink([change])
        self._trouble = error.status, error.reason

    def _works(self) -> None:
        if self._trouble is not None:
            log.info("watching %s: works again", self)
        self._trouble = None
        self._interrupted = False

    def _list(self) -> None:
        """Deliver all there is."""
        pages = self._api.pages(
            self._resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        found = self._reader.whole(takewhile(lambda _: not self._stopped.is_set(), pages))
        if self._stopped.is_set():
            return
        self._complain(found.unreadable)
        self._works()
        self._sink([found])
        self._version = found.resource_version

    def _complain(self, unreadable: Sequence[Unreadable]) -> None:
        for each in unreadable[:NAMED_UNREADABLE]:
            log.error("%s %s; it is passed over", self._resource.kind, each)
        if len(unreadable) > NAMED_UNREADABLE:
            log.error("%s: %d more cannot be read", self._resource.kind, len(unreadable) - NAMED_UNREADABLE)

    def _turned_back(self) -> bool:
        """Whether the API server's history ends before what was told: its store was restored from a backup. A watch
        from beyond its end is accepted, and silent for good."""
        newest = self._api.newest(
            self._resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        return newest.isdecimal() and self._version.isdecimal() and int(newest) < int(self._version)

    def _watch(self) -> None:
        """Deliver changes until the connection ends."""
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311
        selectors = {"labelSelector": self._label_selector, "fieldSelector": self._field_selector}
        query = {
            **{name: value for name, value in selectors.items() if value},
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        began, told = time.monotonic(), False
        path = self._resource.path(self._namespace)
        response = self._api.request("GET", path, query, timeout=(CONNECT_SECONDS, SILENCE_SECONDS), stream=True)
        self._response = response
        try:
            if self._stopped.is_set():
                return
            if self._trouble is not None:
                self._sink([Bookmark(self._version)])
            self._works()
            for lines in self._lines(response):
                self._take(lines)
                told = True
                self._pauses.reset()
                if self._stopped.is_set():
                    return
        finally:
            self._response = None
            response.close()
        lasted = time.monotonic() - began
        self._interrupted = lasted < seconds
        if told or lasted >= HEALTHY_SECONDS:
            self._pauses.reset()
        else:
            raise ApiError(0, "Ended", f"watching {self}: {self._api.server} ended the watch as soon as it had begun")

    def _lines(self, response: urllib3.BaseHTTPResponse) -> Iterator[list[bytes]]:
        """Whole lines as they come, until the connection ends, in whatever way."""
        rest = b""
        try:
            for chunk in response.stream(1 << 16, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                if lines:
                    yield lines
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # Half a line is as if it had not been sent: the next watch begins after the last whole one.
            log.debug("watching %s: connection ended: %s", self, error)

    def _take(self, lines: list[bytes]) -> None:
        """Tell what is in these lines; ApiError for an ERROR event, after all that came before it."""
        changes: list[Change] = []
        failure: ApiError | None = None
        for line in filter(None, lines):
            try:
                change = self._reader.event(line)
            except ApiError as error:
                failure = error
                break
            if isinstance(change, Unreadable):
                self._complain([change])
            self._version = change.resource_version or self._version
            changes.append(change)
        if changes:
            self._sink(changes)
        if failure is not None:
            raise failure
