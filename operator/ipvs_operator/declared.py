"""What people declare, by kopf: it watches VirtualServices and DirectorGroups and brings their events.

Handlers only feed the store. kopf writes nothing: no finalizers, no annotations, no events, no peering. Its watches go
on for ever through whatever passes (no answer, 5xx, 403, 429); what does not pass ends one of its tasks, and we end.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

import kopf
import msgspec

from ipvs_api import GROUP, VERSION
from ipvs_api.directorgroup import DirectorGroup
from ipvs_api.meta import ObjectKey
from ipvs_api.virtualservice import VirtualService
from ipvs_kube.api import Api
from ipvs_kube.reflector import SILENCE_SECONDS
from ipvs_kube.resources import DIRECTOR_GROUPS, VIRTUAL_SERVICES
from ipvs_operator.store import Store

log = logging.getLogger(__name__)

DECLARED: dict[str, Any] = {"VirtualService": VirtualService, "DirectorGroup": DirectorGroup}
RESOURCES = (VIRTUAL_SERVICES, DIRECTOR_GROUPS)

PAGE = 500
"""Objects of one page of kopf's lists: without pages 10,000 VirtualServices cost 150 MiB, and 1.5 s in one piece."""
IDLE_SECONDS = 0.1
"""kopf has a task for each object that something happened to; so long it waits for more."""
REQUEST_SECONDS, CONNECT_SECONDS = 60.0, 5.0
STOP_SECONDS = 3.0


class Pauses:
    """Seconds between kopf's attempts, without end: an API server may be away for hours."""

    def __iter__(self) -> Iterator[float]:
        return chain((0.25, 0.5, 1.0), repeat(2.0))


class Uncompared(kopf.AnnotationsDiffBaseStorage):
    """What kopf would compare an object with when it changes next. No handler of ours asks what has changed, and the
    deep copies that this takes are half of what kopf costs at each event."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()


class Declared:
    """kopf's operator. ``relisted`` is called when it lists anew, which tells nothing of what is gone."""

    def __init__(self, api: Api, store: Store, relisted: Callable[[], None]) -> None:
        self._api, self._store, self._relisted = api, store, relisted
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []
        self._others: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        self._others = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=self._registry(), settings=_settings(), clusterwide=True, stop_flag=self._stop
        )
        self._tasks = list(tasks)

    async def broken(self) -> str:
        """Why kopf has ended, which it never does for well; waits until it has."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                return f"{task.get_name()}: {type(error).__name__}: {error}"
        return ", ".join(task.get_name() for task in done)

    async def stop(self) -> None:
        """To be called when nothing else of ours runs in the loop: kopf takes every younger task for its own."""
        self._stop.set()
        ending = asyncio.ensure_future(kopf.run_tasks(self._tasks, ignored=self._others))
        await asyncio.wait({ending}, timeout=STOP_SECONDS)
        if ending.done() and not ending.cancelled():
            ending.exception()  # what was wrong ``broken`` has told

    def _registry(self) -> kopf.OperatorRegistry:
        made = kopf.OperatorRegistry()

        @kopf.on.login(registry=made)
        def login(**_: Any) -> kopf.ConnectionInfo:
            return self._api.connection(kopf.ConnectionInfo)

        async def bring(event: kopf.RawEvent, **_: Any) -> None:
            self.take(event["type"], event["object"])

        for resource in RESOURCES:
            kopf.on.event(GROUP, VERSION, resource.plural, registry=made)(bring)
        return made

    def take(self, what: str | None, raw: Any) -> None:
        """One event of a watch, or one object of a list, where ``what`` is None."""
        meta = raw["metadata"]
        key = ObjectKey(raw["kind"], meta.get("namespace", ""), meta["name"])
        version = str(meta.get("resourceVersion", ""))
        if what == "DELETED":
            self._store.remove(key, version)
            return
        try:
            self._store.put(msgspec.convert(raw, DECLARED[key.kind]))
        except msgspec.ValidationError as error:
            log.error("%s cannot be read and is passed over: %s; are the CRDs of this version?", key, error)
            self._store.pass_over(key, version)
        if what is None:
            self._relisted()


def _settings() -> kopf.OperatorSettings:
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.peering.standalone = True
    made.process.ultimate_exiting_timeout = None
    made.scanning.disabled = True  # else it goes on without a kind whose definition is deleted, as if there were none
    made.persistence.diffbase_storage = Uncompared()
    made.watching.chunk_size = PAGE
    made.watching.inactivity_timeout = SILENCE_SECONDS
    made.watching.connect_timeout = CONNECT_SECONDS
    made.queueing.idle_timeout = IDLE_SECONDS
    made.queueing.exit_timeout = IDLE_SECONDS
    made.networking.request_timeout = REQUEST_SECONDS
    made.networking.connect_timeout = CONNECT_SECONDS
    made.networking.error_backoffs = Pauses()
    return made
