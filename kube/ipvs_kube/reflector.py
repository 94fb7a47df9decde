"""List and watch, for ever: a thread that tells a sink what there is and what changes.

The sink is called in that thread with a batch of changes. A list that failed is never an empty one; what goes wrong
is told once and tried again for ever, with growing pauses.
"""

import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec
import urllib3

from ipvs_api.meta import ObjectMeta
from ipvs_kube.api import CONNECT_SECONDS, Api
from ipvs_kube.backoff import Backoff
from ipvs_kube.errors import ApiError, watch_error
from ipvs_kube.resources import Resource

log = logging.getLogger(__name__)

SILENCE_SECONDS = 90.0
"""Longest pause in a watch: bookmarks come about every minute, so a connection that says nothing longer is dead."""

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0


class HasMeta(Protocol):
    @property
    def metadata(self) -> ObjectMeta: ...


T = TypeVar("T", bound=HasMeta)


class Replaced(NamedTuple, Generic[T]):
    """All there is; what is not among them is gone."""

    objects: tuple[T, ...]
    resource_version: str


class Put(NamedTuple, Generic[T]):
    """New or changed."""

    object: T
    resource_version: str


class Gone(NamedTuple):
    """Deleted, or outside the selector now. ``resource_version``: of that change."""

    namespace: str
    name: str
    uid: str
    resource_version: str


class Bookmark(NamedTuple):
    """Everything up to here has been told."""

    resource_version: str


class Absent(NamedTuple):
    """The resource is not served (its CRD is not there): nothing is known, so nothing is gone."""


class Trouble(NamedTuple):
    """What was known stays; why no news come."""

    words: str


Change = Replaced[Any] | Put[Any] | Gone | Bookmark | Absent | Trouble


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Named(msgspec.Struct):
    metadata: ObjectMeta


_EVENTS = msgspec.json.Decoder(_Event)
_NAMES = msgspec.json.Decoder(_Named)


class Reflector(Generic[T]):
    """One resource, watched. ``decode``: an object's JSON to what is kept of it."""

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
        self._api, self._resource, self._decode, self._sink = api, resource, decode, sink
        self._namespace = namespace
        self._selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        self._stopped = threading.Event()
        self._response: urllib3.BaseHTTPResponse | None = None
        self._trouble: Change | None = None
        self._pauses = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._version = ""
        """The last resourceVersion told; empty: list first."""
        self._thread = threading.Thread(target=self._run, name=f"watch-{resource.plural}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the watch; returns at once, ``join`` waits for the thread."""
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
                if self._version:
                    self._watch()
                else:
                    self._list()
            except ApiError as error:
                if self._stopped.is_set():
                    return
                if error.gone:
                    self._version = ""
                elif error.not_found:
                    self._version = ""
                    self._tell(Absent())
                else:
                    self._tell(Trouble(str(error)))
                pause = self._pauses.next(random.random(), error.retry_after or 0.0)  # noqa: S311  # jitter
                self._stopped.wait(pause)

    def _tell(self, trouble: Change) -> None:
        """Once, until it works again."""
        if type(trouble) is not type(self._trouble):
            log.warning(
                "watching %s: %s", self._resource, trouble.words if isinstance(trouble, Trouble) else "not served"
            )
            self._trouble = trouble
            self._sink([trouble])

    def _works(self) -> None:
        if self._trouble is not None:
            log.info("watching %s: works again", self._resource)
        self._trouble = None
        self._pauses.reset()

    def _list(self) -> None:
        """Deliver all there is."""
        objects: list[T] = []
        version = ""
        pages = self._api.pages(
            self._resource,
            self._namespace,
            label_selector=self._selectors["labelSelector"],
            field_selector=self._selectors["fieldSelector"],
        )
        for page in pages:
            version = page.resource_version
            objects += self._decoded(page.items)
        if self._stopped.is_set():
            return
        self._works()
        self._sink([Replaced(tuple(objects), version)])
        self._version = version

    def _decoded(self, items: list[msgspec.Raw]) -> Iterator[T]:
        for item in items:
            decoded = self._read(item)
            if decoded is not None:
                yield decoded

    def _read(self, item: bytes | msgspec.Raw) -> T | None:
        """None for an object that cannot be read: it is told, others go on."""
        try:
            return self._decode(item)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            try:
                name = _NAMES.decode(item).metadata
                words = f"{name.namespace}/{name.name}" if name.namespace else name.name
            except (msgspec.ValidationError, msgspec.DecodeError):
                words = "one without a name"
            log.error("%s %s cannot be read and is passed over: %s", self._resource.kind, words, error)
            return None

    def _watch(self) -> None:
        """Deliver changes until the connection ends."""
        seconds = int(random.uniform(240, 360))  # noqa: S311  # so that not all watches end together
        query = {
            **{name: value for name, value in self._selectors.items() if value},
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        path = self._resource.path(self._namespace)
        timeout = (CONNECT_SECONDS, SILENCE_SECONDS)
        response = self._api.request("GET", path, query, timeout=timeout, stream=True)
        self._response = response
        rest = b""
        try:
            if self._stopped.is_set():
                return
            self._works()
            for chunk in response.stream(1 << 16, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                self._take(lines)
                if self._stopped.is_set():
                    return
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # Half a line is as if it had not been sent: the next watch begins after the last whole one.
            if not self._stopped.is_set():
                log.debug("watching %s: connection ended: %s", self._resource, error)
        finally:
            self._response = None
            response.close()

    def _take(self, lines: list[bytes]) -> None:
        """Tell what is in these lines; ApiError for an ERROR event, after all that came before it."""
        changes: list[Change] = []
        failure: ApiError | None = None
        for line in filter(None, lines):
            try:
                event = _EVENTS.decode(line)
                if event.type == "ERROR":
                    failure = watch_error(bytes(event.object), f"watching {self._resource}")
                    break
                meta = _NAMES.decode(event.object).metadata
            except (msgspec.ValidationError, msgspec.DecodeError) as error:
                failure = ApiError(0, "Unreadable", f"watching {self._resource}: {error}")
                break
            self._version = meta.resource_version or self._version
            if event.type == "BOOKMARK":
                changes.append(Bookmark(self._version))
            elif event.type == "DELETED":
                changes.append(Gone(meta.namespace, meta.name, meta.uid, self._version))
            elif (decoded := self._read(event.object)) is not None:
                changes.append(Put(decoded, self._version))
        if changes:
            self._sink(changes)
        if failure is not None:
            raise failure
