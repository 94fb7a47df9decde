"""The loop: what changed (plans, kernel notifications, time) becomes passes on the kernel thread, and reports.

asyncio on the main thread waits and decides when; one kernel thread owns every request socket and ``nft``; probes and
announcements, which mostly wait, have a thread of their own.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from ipvs_agent.agent import Agent
from ipvs_agent.converge import Progress
from ipvs_agent.health import serve_health
from ipvs_agent.kernel.genetlink import FamilyMissingError
from ipvs_agent.kernel.notifications import Notifications
from ipvs_agent.local_socket import Request, serve
from ipvs_agent.rows import AddressKey
from ipvs_agent.view import make_view

T = TypeVar("T")

log = logging.getLogger(__name__)

AUDIT_PERIOD = 30.0
"""Seconds between two full comparisons; drift that no notification tells is mended within this time."""

COALESCE = 0.05
"""Seconds to wait after a kernel notification, so that a burst is looked at once."""


LACKING_PERIOD = 5.0
"""Seconds until a kernel that had no IPVS is asked again."""

ANSWER_SECONDS = 10.0
"""A kernel thread that has not answered for so long is stuck: its longest step, an audit of 10,000 services, takes
three."""


class Loop:
    """Runs an ``Agent`` until a signal.

    ``health_port`` 0: nobody asks over HTTP how it is. ``tell_lacking``: tells others that the kernel has no IPVS, in
    these words; True where that was possible. With it the loop waits for the module, without it FamilyMissingError
    ends it.
    """

    def __init__(
        self, agent: Agent, socket: Path, health_port: int = 0, tell_lacking: Callable[[str], bool] | None = None
    ) -> None:
        assert agent.source is not None
        self._agent, self._source, self._socket, self._health_port = agent, agent.source, socket, health_port
        self._tell_lacking = tell_lacking
        self._lacking = ""
        """Why nothing can be done on this kernel, in words."""
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._kernel = ThreadPoolExecutor(1, "kernel")
        self._wire = ThreadPoolExecutor(1, "wire")
        self._news = True
        self._settled = False
        """What is wanted has been in the kernel once."""
        self._notified: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._probing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Nothing is torn down when it ends."""
        self._loop = loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        port = self._health_port
        health = await serve_health(port, self._is_alive, self._is_ready) if port else None
        try:
            notifications = await self._open()
            if notifications is not None:
                await self._work(notifications)
        finally:
            if health is not None:
                health.close()
            self._kernel.shutdown()
            self._wire.shutdown()
        log.info("stopped; the kernel keeps what it has")

    async def _open(self) -> Notifications | None:
        """The kernel, as soon as it has IPVS; None where the signal comes first."""
        loop = asyncio.get_running_loop()
        tell_at = 0.0
        while not self._stop.is_set():
            try:
                notifications = await self._on_kernel(self._agent.open)
            except FamilyMissingError as missing:
                if self._tell_lacking is None:
                    raise
                words = str(missing.strerror)
            else:
                self._lacking = ""
                return notifications
            if words != self._lacking:
                log.error("%s", words)
                self._lacking = words
            if loop.time() >= tell_at and await loop.run_in_executor(self._wire, self._tell_lacking, words):
                tell_at = loop.time() + AUDIT_PERIOD  # once more then: somebody may have deleted the report
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), LACKING_PERIOD)
        return None

    async def _work(self, notifications: Notifications) -> None:
        """Pass after pass, until the signal."""
        loop = self._loop
        loop.add_reader(notifications.fileno(), self._kernel_told)
        self._source.watch(self._wake_from_anywhere)
        server = await serve(self._socket, self._answer)
        self._every_audit()
        stopping = asyncio.create_task(self._stop.wait())
        try:
            while not self._stop.is_set():
                await self._pass()
                waiting = asyncio.create_task(self._wake.wait())
                await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                self._wake.clear()
        finally:
            stopping.cancel()
            loop.remove_reader(notifications.fileno())
            self._source.close()
            if server is not None:
                server.close()
            for timer in self._timers.values():
                timer.cancel()
            if self._probing is not None:
                self._probing.cancel()
                with suppress(asyncio.CancelledError):
                    await self._probing
            await self._on_kernel(self._agent.close)

    async def _pass(self) -> None:
        look, notified = self._news, self._notified
        self._news, self._notified = False, set()

        def at_once() -> tuple[float | None, Progress]:
            """In one go: who asks in between would be told of plans that the kernel does not have yet."""
            recheck = self._agent.read_source() if look else None
            progress = self._agent.step(notified)
            self._agent.make_report()
            return recheck, progress

        recheck, progress = await self._on_kernel(at_once)
        if recheck is not None:
            self._later("source", recheck, self._source_changed)
        if self._agent.to_probe and self._probing is None:
            self._probing = asyncio.create_task(self._probe())
        if self._agent.to_announce:
            await self._announce()
        self._settled = self._settled or (self._agent.known and not progress.more)
        if progress.more:
            self._wake.set()
        elif progress.next_due is not None:
            self._later("due", max(progress.next_due - self._agent.clock(), 0.01), self._wake.set)

    async def _answer(self, request: Request) -> bytes:
        """What a local tool asked."""
        if request.what != "status":
            return msgspec.json.encode({"error": f"unknown request {request.what!r}; known: status"})
        return msgspec.json.encode(await self._on_kernel(lambda: make_view(self._agent, running=True)))

    async def _is_alive(self) -> str:
        """Why this process should be replaced; empty while it need not."""
        try:
            await asyncio.wait_for(self._on_kernel(lambda: None), ANSWER_SECONDS)
        except TimeoutError:
            return f"the kernel thread has not answered for {ANSWER_SECONDS:g} s"
        return ""

    async def _is_ready(self) -> str:
        """Why this host is not what it is wanted to be yet; empty once it has been."""
        if self._lacking:
            return self._lacking
        if not self._agent.known:
            return "what is wanted of this node is not known yet" + (f": {self._source.away}" * bool(self._source.away))
        return "" if self._settled else "what is wanted of this node is not in its kernel yet"

    async def _probe(self) -> None:
        """Ask the network whether somebody answers for the addresses that are to be taken (RFC 5227)."""
        try:
            keys = self._agent.take_probes()
            answers = await asyncio.get_running_loop().run_in_executor(self._wire, self._agent.probe, keys)
            await self._on_kernel(lambda: self._agent.probed(answers))
        finally:
            self._probing = None
            self._wake.set()

    async def _announce(self) -> None:
        keys = self._agent.take_announcements()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._wire, self._agent.announce, keys)
        for delay in (1.0, 5.0):
            # A switch or neighbour that missed the first one learns from these (keepalived's garp_master_delay).
            loop.call_later(delay, self._announce_again, keys)

    def _announce_again(self, keys: frozenset[AddressKey]) -> None:
        if not self._stop.is_set():
            self._wire.submit(self._agent.announce, keys)

    def _wake_from_anywhere(self) -> None:
        """The source has news; from any thread."""
        with suppress(RuntimeError):  # the loop has ended, and so has everything
            self._loop.call_soon_threadsafe(self._source_changed)

    def _source_changed(self) -> None:
        self._news = True
        self._wake.set()

    def _kernel_told(self) -> None:
        tables = self._agent.take_notifications()
        if tables:
            self._notified |= tables
            self._later("notified", COALESCE, self._wake.set)

    def _every_audit(self) -> None:
        self._later("audit", AUDIT_PERIOD, self._audit)

    def _audit(self) -> None:
        self._agent.audit_due = True
        self._source.renew()
        self._source_changed()
        self._every_audit()

    def _later(self, name: str, delay: float, call: Callable[[], None]) -> None:
        timer = self._timers.get(name)
        when = asyncio.get_running_loop().time() + delay
        if timer is not None and not timer.cancelled() and asyncio.get_running_loop().time() < timer.when() <= when:
            return
        if timer is not None:
            timer.cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(delay, call)

    async def _on_kernel(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._kernel, call)
