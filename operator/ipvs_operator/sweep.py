"""Names of what people declare, listed now and then: kopf never tells what was deleted while a watch was broken."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from ipvs_api.meta import ObjectKey, ObjectMeta, number_of
from ipvs_kube.api import Api
from ipvs_kube.backoff import Backoff
from ipvs_operator.declared import RESOURCES
from ipvs_operator.store import Store

SWEEP_SECONDS = 60.0
"""From one sweep to the next."""
FIRST_LOOK_SECONDS, LOOK_SECONDS = 0.05, 1.0
"""Between two looks at what is waited for, which mostly is there in a moment."""


class _Named(msgspec.Struct):
    metadata: ObjectMeta


_NAMED = msgspec.json.Decoder(_Named)


class Listed(NamedTuple):
    """Everything of one kind, each at its version, as it was at ``version``."""

    kind: str
    there: Mapping[ObjectKey, int]
    version: str


def list_names(api: Api) -> tuple[Listed, ...]:
    """All names of what people declare; only metadata goes over the wire. ApiError."""
    found = []
    for resource in RESOURCES:
        there, version = {}, ""
        for page in api.pages(resource, metadata_only=True):
            version = page.resource_version
            for item in page.items:
                meta = _NAMED.decode(item).metadata
                there[ObjectKey(resource.kind, meta.namespace, meta.name)] = number_of(meta.resource_version)
        found.append(Listed(resource.kind, there, version))
    return tuple(found)


def forget_lost(store: Store, listed: Iterable[Listed]) -> list[ObjectKey]:
    """Remove what is not listed and not newer than the list; what was removed."""
    lost = [(key, each.version) for each in listed for key in store.known(each.kind) - each.there.keys()]
    return [key for key, version in lost if store.remove(key, version)]


class Sweep:
    """Compares what is listed with what was listed the last time, a while ago."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._behind: dict[ObjectKey, int] = {}

    def broken(self, store: Store, listed: Iterable[Listed]) -> str:
        """Why no news come any more, in words; empty: they do.

        A watch is blind where something has not come since the last sweep that was there already then. Versions that
        go back come from a backup: what is known is of a future that will not be.
        """
        behind: dict[ObjectKey, int] = {}
        for each in listed:
            before, version = self._versions.get(each.kind, -1), number_of(each.version)
            if 0 <= version < before:
                return f"the API server's data has gone back from version {before} to {version}"
            self._versions[each.kind] = version
            behind |= {key: version for key, version in each.there.items() if _lacks(store, key, version)}
        for key, version in self._behind.items():
            if key in behind and _lacks(store, key, version):
                return f"{key} has not come at version {version} by its watch"
        self._behind = behind
        return ""


def missing(store: Store, listed: Iterable[Listed]) -> list[ObjectKey]:
    """What is listed and has not come yet."""
    return [key for each in listed for key in each.there if store.version(key) is None]


async def all_known(
    store: Store,
    names: Callable[[], Awaitable[Iterable[Listed]]],
    unlisted: Callable[[], list[str]],
    tell: Callable[[list[str]], None],
) -> None:
    """Return when everything has come that is there. ``names``: lists what people declare; ``unlisted``: says which
    other lists are still to come; ``tell``: is told what is waited for, as often as it is looked at.

    Thousands of objects take seconds, and a list of them as well: a new one is made only where nothing comes any more,
    for what is waited for may be gone.
    """
    pauses, before = Backoff(FIRST_LOOK_SECONDS, LOOK_SECONDS), None
    there = await names()
    while awaited := unlisted() or _words(missing(store, there)):
        tell(awaited)
        await asyncio.sleep(pauses.next(1.0))
        if awaited == before and not unlisted():
            there = await names()
        before = awaited


def _words(keys: Sequence[ObjectKey]) -> list[str]:
    if not keys:
        return []
    return [f"{len(keys)} objects have not come by their watch yet, {keys[0]} among them"]


def _lacks(store: Store, key: ObjectKey, version: int) -> bool:
    known = store.version(key)
    return known is None or -1 < known < version
