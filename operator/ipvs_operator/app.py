"""The operator put together: what it waits for before it works, who works, and how it ends.

Everything runs in one event loop but the requests (a pool of threads), the watches (a thread each) and the lease (a
thread with a connection of its own, so that sixteen busy workers cannot keep it from renewing).
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ipvs_kube.api import connect
from ipvs_kube.errors import ApiError
from ipvs_operator import crds
from ipvs_operator.declared import Declared
from ipvs_operator.health import Health
from ipvs_operator.items import Item
from ipvs_operator.leading import Leading
from ipvs_operator.lease import ApiLease, Elector, Tenure
from ipvs_operator.observed import Observed, sources
from ipvs_operator.queue import KeyedQueue
from ipvs_operator.store import Store
from ipvs_operator.sweep import LOOK_SECONDS, SWEEP_SECONDS, Listed, Sweep, all_known, forget_lost, list_names
from ipvs_operator.worker import Workers

log = logging.getLogger(__name__)

T = TypeVar("T")

LEASE_NAME = "ipvs-operator"
FINISH_SECONDS = 5.0
"""What is being written when the operator is asked to stop has so long."""
RELIST_SECONDS = 2.0
"""After kopf has begun to list anew, until what is gone is looked for."""


class Options(NamedTuple):
    """What the command line says. ``identity`` need not be unique, ``agent_pods`` is a label selector."""

    namespace: str
    kubeconfig: Path | None
    context: str
    identity: str
    workers: int
    health_port: int
    agent_pods: str
    elects: bool


class Operator:
    """One process' operator. ``end`` may be called from any thread, ``run`` once."""

    def __init__(self, options: Options) -> None:
        """KubeConfigError."""
        self._options = options
        self._api = connect(options.kubeconfig, options.context)
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._queue: KeyedQueue[Item] = KeyedQueue()
        self._leading = Leading(self._queue)
        self._store = Store(options.namespace, self._leading.mark, judges_pods=bool(options.agent_pods))
        self._pool = ThreadPoolExecutor(options.workers + 1, thread_name_prefix="api")
        self._relisted = asyncio.Event()
        self._declared = Declared(self._api, self._store, self._relisted.set)
        self._observed = Observed(
            self._api, self._store, sources(options.namespace, options.agent_pods), self.break_off
        )
        self._tenure: Tenure | None = None
        self._elector: Elector | None = None
        if options.elects:
            own = connect(options.kubeconfig, options.context)
            self._tenure = Tenure(ApiLease(own, options.namespace, LEASE_NAME), options.identity)
            self._elector = Elector(self._tenure, lambda: self._threadsafe(self._lead), fail_stop)
        self._workers = Workers(self._api, self._store, self._queue, self._pool, self._may_write)
        self._awaited: list[str] = ["the operator is starting"]
        self._tasks: list[asyncio.Task[None]] = []

    def _may_write(self) -> bool:
        return self._tenure is None or self._tenure.surely_held

    def end(self, code: int) -> None:
        """Have ``run`` return, in good order."""
        if not self._ended.done():
            self._ended.set_result(code)

    def break_off(self, why: str) -> None:
        """Go no further: a new start finds what there is."""
        log.error("the operator ends: %s", why)
        self.end(1)

    def _threadsafe(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: this process is ending
            self._loop.call_soon_threadsafe(call)

    async def run(self) -> int:
        """The exit status: 0 asked to stop, 1 a new start is needed. OSError: the health port cannot be had."""
        health = Health(alive=list, ready=lambda: self._awaited)
        if self._options.health_port:
            await health.start(self._options.health_port)
        self._spawn(self._begin())
        self._take_signals()
        code = await self._ended
        log.info("stopping")
        self._awaited = ["the operator is stopping"]
        await self._workers.stop(FINISH_SECONDS)
        if self._elector is not None:
            await asyncio.to_thread(self._elector.stop)
        self._observed.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await health.stop()
        await self._declared.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
        return code

    def _take_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.end, 0)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """A task whose failure ends the operator."""
        task = self._loop.create_task(work)
        self._tasks.append(task)

        def look(done: asyncio.Task[None]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                log.error("a fault of the operator's own", exc_info=error)
                self.end(1)

        task.add_done_callback(look)

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._pool, work)

    async def _begin(self) -> None:
        """Wait for all there is to know, then for the lease."""
        await self._definitions()
        self._observed.start()
        await self._declared.start()
        self._take_signals()  # kopf has put its own in their place
        self._spawn(self._mind_kopf())
        await all_known(self._store, self._names, self._observed.missing, self._await)
        self._awaited = []
        log.info("everything is known; %s", "waiting for the lease" if self._elector else "working")
        self._spawn(self._sweep())
        self._spawn(self._forget_when_relisted())
        if self._elector is not None:
            self._elector.start()
        else:
            self._lead()

    def _lead(self) -> None:
        if self._ended.done():
            return
        log.info("this operator (%s) works now", self._options.identity)
        self._leading.begin(self._store.everything())
        self._workers.start(self._options.workers)

    def _await(self, what: list[str]) -> None:
        """Say what is waited for, where it has changed, in the log and to who asks whether we are ready."""
        if what != self._awaited:
            for each in what:
                log.info("waiting: %s", each)
        self._awaited = what

    async def _definitions(self) -> None:
        while True:
            try:
                problems = await self._in_pool(lambda: crds.problems(self._api))
            except ApiError as error:
                problems = [str(error)]
            if not problems:
                return
            self._await(problems)
            await asyncio.sleep(LOOK_SECONDS)

    async def _names(self) -> tuple[Listed, ...]:
        while True:
            try:
                return await self._in_pool(lambda: list_names(self._api))
            except ApiError as error:
                if error.not_found:
                    self.break_off(_absent(error))
                self._await([str(error)])
                await asyncio.sleep(LOOK_SECONDS)

    async def _mind_kopf(self) -> None:
        why = [f"kopf has ended: {await self._declared.broken()}"]
        if self._ended.done():
            return
        with suppress(ApiError):
            why += await self._in_pool(lambda: crds.problems(self._api))
        self.break_off("; ".join(why))

    async def _sweep(self) -> None:
        """Every minute; a watch that has become blind, and an API server that has lost its memory, are found too."""
        sweep = Sweep()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            listed = await self._listed_again()
            if listed is not None and (why := sweep.broken(self._store, listed)):
                self.break_off(why)

    async def _forget_when_relisted(self) -> None:
        while True:
            self._relisted.clear()
            await self._relisted.wait()
            await asyncio.sleep(RELIST_SECONDS)
            await self._listed_again()

    async def _listed_again(self) -> tuple[Listed, ...] | None:
        """Forget what is gone. None: it cannot be said."""
        try:
            listed = await self._in_pool(lambda: list_names(self._api))
        except ApiError as error:
            if error.not_found:
                self.break_off(_absent(error))
            else:
                log.debug("sweep: %s", error)
            return None
        for key in forget_lost(self._store, listed):
            log.info("%s is gone; no watch has told of it", key)
        return listed


def _absent(error: ApiError) -> str:
    return f"{error}: was a CustomResourceDefinition deleted?"


def fail_stop(why: str) -> None:
    """Another operator may work from now on, so this process may not do another thing."""
    log.error("the lease is lost: %s", why)
    logging.shutdown()
    os._exit(1)
