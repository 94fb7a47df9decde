"""Workers: take an item, work out what has to be written, write it, put what comes back into the store."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from ipvs_api.directorgroup import DirectorGroupStatus
from ipvs_api.ipaddress import IPVSAddressSpec
from ipvs_api.meta import ObjectKey
from ipvs_api.plan import VirtualServicePlan, VirtualServicePlanSpec
from ipvs_api.virtualservice import VirtualService, VirtualServiceStatus
from ipvs_kube.api import Api
from ipvs_kube.errors import ApiError
from ipvs_operator import crds, events
from ipvs_operator.items import Item, Work
from ipvs_operator.queue import KeyedQueue
from ipvs_operator.store import Store
from ipvs_operator.writer import NotOursError, carry_out, fetch
from ipvs_planner.index import Key
from ipvs_planner.pace import PACE_SECONDS, one_of_many, pace
from ipvs_planner.reconcile import reconcile, reconcile_group, reconcile_node
from ipvs_planner.reconcile_balancer import reconcile_balancer
from ipvs_planner.writes import Event, Reconciliation, Verb, Write

log = logging.getLogger(__name__)

NOT_SOON_SECONDS = 30.0
"""Pause after a refusal that somebody has to mend."""


class Workers:
    """``may_write``: nobody else writes now. Everything but the requests runs in the event loop's thread."""

    def __init__(
        self, api: Api, store: Store, queue: KeyedQueue[Item], pool: Executor, may_write: Callable[[], bool]
    ) -> None:
        self._api, self._store, self._queue, self._pool, self._may_write = api, store, queue, pool, may_write
        self._limiter = events.Limiter(time.monotonic())
        self._resting: dict[ObjectKey, float] = {}
        """Statuses and plans that were written lately, and until when their like may wait."""
        self._troubles: dict[Item | None, str] = {}
        """What has been told of items, and of the API server as a whole, and still holds."""
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self, count: int) -> None:
        self._tasks = [asyncio.create_task(self._work(), name=f"worker-{number}") for number in range(count)]

    async def stop(self, seconds: float) -> None:
        """Take nothing more, and leave what is being written so much time."""
        self._stopping = True
        self._queue.close()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()

    async def _work(self) -> None:
        while (item := await self._queue.get()) is not None:
            try:
                await self._handle(item)
            finally:
                self._queue.done(item)

    async def _handle(self, item: Item) -> None:
        try:
            await self._reconcile(item)
        except NotOursError:
            return
        except ApiError as error:
            self._failed(item, error)
        except Exception:
            # A fault of ours in one object must not stop the others; it is told, and tried again.
            log.exception("%s could not be reconciled", item)
            self._queue.retry(item, NOT_SOON_SECONDS)
        else:
            self._troubles.pop(item, None)
            self._queue.succeeded(item)

    def _work_out(self, item: Item) -> Reconciliation:
        snapshot, now = self._store.snapshot, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if item.work is Work.NODE:
            return reconcile_node(snapshot, item.name)
        if item.work is Work.GROUP:
            return reconcile_group(snapshot, item.name, now)
        if item.work is Work.BALANCER:
            return reconcile_balancer(snapshot, Key(item.namespace, item.name), now)
        return reconcile(snapshot, Key(item.namespace, item.name), now)

    async def _reconcile(self, item: Item) -> None:
        result = self._work_out(item)
        writes = [self._fenced(write) for write in result.writes]
        claimed = _claimed(writes)
        for address in claimed:
            self._store.snapshot.reserve(address, Key(item.namespace, item.name))
        try:
            for write in writes:
                if self._stopping:
                    return
                pause = self._pause(write)
                if pause > 0:
                    self._queue.add(item, pause)
                    return
                await self._write(item, write)
        finally:
            for address in claimed:
                self._store.unreserve(address)
        if any(write.verb is not Verb.STATUS for write in writes):
            self._queue.add(item)  # what is stored now is where the next step begins
        for event in result.events:
            self._tell(event)
        if result.after is not None:
            self._queue.add(item, result.after)

    def _pause(self, write: Write) -> float:
        """Seconds to leave something alone of which the like was written a moment ago, where nobody waits for it."""
        key = _key(write)
        left = self._resting.get(key, float("-inf")) - time.monotonic()
        return left if left > 0 and self._may_wait(write, key) else 0.0

    def _may_wait(self, write: Write, key: ObjectKey) -> bool:
        if write.verb is Verb.STATUS:
            return bool(_verdict(write.status) == _verdict(self._store.status(key)))
        if write.verb is not Verb.APPLY or not isinstance(write.spec, VirtualServicePlanSpec):
            return False
        snapshot, owner, after = self._store.snapshot, write.spec.virtual_service, write.spec
        stored = snapshot.stored.of(Key(owner.namespace, owner.name))
        before = next((plan.spec for plan in stored if plan.metadata.name == key.name), None)
        return before is not None and one_of_many(before, after, lambda node: snapshot.reports.report(node) is not None)

    async def _write(self, item: Item, write: Write) -> None:
        loop = asyncio.get_running_loop()
        try:
            stored = await loop.run_in_executor(self._pool, carry_out, self._api, write, self._may_write)
        except ApiError as error:
            await self._look(write, error)
            raise
        self._troubles.pop(None, None)
        if write.verb is Verb.STATUS:
            self._rest(_key(write), PACE_SECONDS)
            log.debug("%s", write)
        else:
            log.info("%s for %s", write, item)
        if isinstance(stored, VirtualServicePlan):
            self._rest(_key(write), pace(len(stored.metadata.labels)))
        if stored is not None:
            self._store.put(stored, by=item if _as_told(write, stored) else None)

    def _fenced(self, write: Write) -> Write:
        """Only over the version that it was worked out from: a process that slept cannot undo what others did."""
        version = self._store.version(_key(write))
        if version is None or version < 0 or not write.metadata.uid or write.metadata.resource_version:
            return write
        return write._replace(metadata=replace(write.metadata, resource_version=str(version)))

    def _rest(self, key: ObjectKey, seconds: float) -> None:
        now = time.monotonic()
        if len(self._resting) > 1024:
            self._resting = {key: until for key, until in self._resting.items() if until > now}
        self._resting[key] = now + seconds

    async def _look(self, write: Write, error: ApiError) -> None:
        """After a refusal that may come from knowing too little: learn what is there."""
        if not (error.conflict or error.already_exists or error.not_found):
            return
        key, loop = _key(write), asyncio.get_running_loop()
        try:
            self._store.put(await loop.run_in_executor(self._pool, fetch, self._api, *key))
        except ApiError as missing:
            if missing.not_found:
                self._store.remove(key)

    def _failed(self, item: Item, error: ApiError) -> None:
        if error.conflict or error.already_exists:
            log.debug("%s: %s", item, error)
            self._queue.retry(item)
        elif error.not_found or _is_ending(error):
            self._say(item, logging.INFO, f"{item}: {error}")
            self._queue.retry(item)
        elif error.unreachable or error.status == 429:
            if None not in self._troubles:
                self._say(None, logging.WARNING, str(error))
            self._queue.retry(item, error.retry_after or 0.0)
        else:
            self._say(item, logging.ERROR, f"{item}: {error}{_remedy(error)}")
            self._queue.retry(item, NOT_SOON_SECONDS if _remedy(error) else error.retry_after or 0.0)

    def _say(self, of: Item | None, level: int, words: str) -> None:
        """Once, as long as it holds."""
        if self._troubles.get(of) != words:
            log.log(level, "%s", words)
        self._troubles[of] = words

    def _tell(self, event: Event) -> None:
        if self._may_write() and self._limiter.admits(event, time.monotonic()):
            asyncio.get_running_loop().run_in_executor(self._pool, events.tell, self._api, event)


def _claimed(writes: Iterable[Write]) -> list[str]:
    """Addresses that are about to be claimed."""
    specs = (write.spec for write in writes if write.verb is Verb.CREATE)
    return [spec.address for spec in specs if isinstance(spec, IPVSAddressSpec)]


def _as_told(write: Write, stored: Any) -> bool:
    """A VirtualService is stored as its reconciliation saw it, with the status that this gave."""
    return (
        isinstance(stored, VirtualService)
        and write.verb is Verb.STATUS
        and bool(write.metadata.resource_version)
        and stored.status == write.status
    )


def _key(write: Write) -> ObjectKey:
    return ObjectKey(write.kind, write.metadata.namespace, write.metadata.name)


def _is_ending(error: ApiError) -> bool:
    """Nothing new can be made in a namespace that is being deleted."""
    return error.forbidden and "it is being terminated" in error.message


def _remedy(error: ApiError) -> str:
    """For what trying again will not mend."""
    if "is terminating" in error.message or "being terminated" in error.message:
        return ""  # a namespace or a definition is going, and nothing can be made in it
    if error.forbidden:
        return "; the operator's Role or ClusterRole has no such rule"
    if error.invalid or "not declared in schema" in error.message:
        return f"; are the CRDs of this version? {crds.REMEDY}"
    return ""


def _verdict(status: Any) -> Any:
    """What of a status is told at once."""
    if not isinstance(status, VirtualServiceStatus | DirectorGroupStatus):
        return status
    conditions = [(each.type, each.status, each.reason, each.observed_generation) for each in status.conditions]
    if isinstance(status, VirtualServiceStatus):
        return status.observed_generation, status.addresses, conditions
    return status.observed_generation, status.directors, conditions
