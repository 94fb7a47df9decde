"""What a list or a watch tells, and how it is read from JSON. Pure."""

from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from ipvs_api.meta import ObjectMeta
from ipvs_kube.api import Page
from ipvs_kube.errors import ApiError, watch_error


class HasMeta(Protocol):
    @property
    def metadata(self) -> ObjectMeta: ...


T = TypeVar("T", bound=HasMeta)


class Unreadable(NamedTuple):
    """There is such an object, but it cannot be decoded. What was known of it stays."""

    namespace: str
    name: str
    resource_version: str
    words: str

    def __str__(self) -> str:
        name = f"{self.namespace}/{self.name}" if self.namespace else self.name or "one without a name"
        return f"{name}: {self.words}"


class Replaced(NamedTuple, Generic[T]):
    """All there is; what is neither among the ``objects`` nor ``unreadable`` is gone.

    A ``resource_version`` below an earlier one: the API server was restored from a backup.
    """

    objects: tuple[T, ...]
    resource_version: str
    unreadable: tuple[Unreadable, ...] = ()


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
    """Everything up to here has been told, and news come (again)."""

    resource_version: str


class Absent(NamedTuple):
    """The resource is not served (its CRD is not there): nothing is known, so nothing is gone."""


class Trouble(NamedTuple):
    """What was known stays; why no news come."""

    words: str


Change = Replaced[Any] | Put[Any] | Unreadable | Gone | Bookmark | Absent | Trouble


class _Meta(msgspec.Struct, rename="camel"):
    """Of any object; a bookmark's has nothing but a version."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Named(msgspec.Struct):
    metadata: _Meta


class _Event(msgspec.Struct):
    """``metav1.WatchEvent``."""

    type: str
    object: msgspec.Raw


_EVENTS = msgspec.json.Decoder(_Event)
_NAMES = msgspec.json.Decoder(_Named)


class Reader(Generic[T]):
    """Objects of one kind from JSON. ``decode``: to what is kept of one; ValueError (msgspec's are) where it cannot."""

    def __init__(self, decode: Callable[[bytes | msgspec.Raw], T], what: str) -> None:
        self._decode, self._what = decode, what

    def item(self, item: bytes | msgspec.Raw) -> T | Unreadable:
        """An object of a list."""
        try:
            return self._decode(item)
        except ValueError as error:
            meta = _name(item)
            return Unreadable(meta.namespace, meta.name, meta.resource_version, str(error))

    def whole(self, pages: Iterable[Page]) -> Replaced[T]:
        """A list. Objects are decoded one by one, so that never more than a page of them is held raw."""
        objects: list[T] = []
        unreadable: list[Unreadable] = []
        version = ""
        for page in pages:
            version = page.resource_version
            for read in map(self.item, page.items):
                if isinstance(read, Unreadable):
                    unreadable.append(read)
                else:
                    objects.append(read)
        return Replaced(tuple(objects), version, tuple(unreadable))

    def event(self, line: bytes) -> Put[T] | Unreadable | Gone | Bookmark:
        """A line of a watch. ApiError for an ERROR event, and for what is none at all."""
        try:
            event = _EVENTS.decode(line)
            if event.type == "ERROR":
                raise watch_error(bytes(event.object), self._what)
            meta = _NAMES.decode(event.object).metadata
        except ValueError as error:
            raise ApiError(0, "Unreadable", f"{self._what}: {error}") from error
        if event.type == "BOOKMARK":
            return Bookmark(meta.resource_version)
        if event.type == "DELETED":
            return Gone(meta.namespace, meta.name, meta.uid, meta.resource_version)
        read = self.item(event.object)
        return read if isinstance(read, Unreadable) else Put(read, meta.resource_version)


def _name(item: bytes | msgspec.Raw) -> _Meta:
    try:
        return _NAMES.decode(item).metadata
    except ValueError:
        return _Meta()
