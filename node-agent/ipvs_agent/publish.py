"""The node's report on its way to the API server: ``IPVSNode.status``, written when it differs from what is stored."""

import logging
import random
import threading
import time

import msgspec

from ipvs_api.meta import number_of
from ipvs_api.node import IPVSNode, IPVSNodeStatus
from ipvs_kube.api import Api
from ipvs_kube.backoff import Backoff
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import IPVS_NODES

log = logging.getLogger(__name__)

MANAGER = "ipvs-agent"
"""Field manager of the report."""

PERIOD = 1.0
"""Seconds between two writes at the least; the first after a silence goes out at once."""

UNSETTLED = 1.0
"""Seconds that a report waits which is about to change, since passes are under way."""

FIRST_UNSETTLED = 30.0
"""... and the first one of this process: until then what the agent before it reported is nearer the truth."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


class Draft:
    """What is to be said, what is stored, and when to write it. Pure; ``now``: seconds of one clock."""

    def __init__(self) -> None:
        self.wanted: IPVSNodeStatus | None = None
        self._unsettled_since: float | None = None
        self._known = False
        self._stored: IPVSNodeStatus | None = None
        self._version = -1
        self._said: tuple[IPVSNodeStatus, IPVSNodeStatus] | None = None
        """What was written last, and what the API server made of it."""
        self._not_before = float("-inf")
        self._patience = FIRST_UNSETTLED

    def want(self, status: IPVSNodeStatus, now: float, *, settled: bool) -> None:
        """``settled``: nothing is under way that would change it in a moment."""
        self.wanted = status
        if settled:
            self._unsettled_since, self._patience = None, UNSETTLED
        elif self._unsettled_since is None:
            self._unsettled_since = now

    def seen(self, version: int, status: IPVSNodeStatus | None) -> None:
        """What the API server has, as of a resource version (as a number); None: there is no such object."""
        appeared = self._known and self._stored is None and status is not None
        if version < self._version:
            return
        self._known, self._version, self._stored = True, version, status
        if appeared:
            self._not_before = float("-inf")

    def forget(self) -> None:
        """History has been turned back: what is seen next is true, whatever its version."""
        self._version = -1

    def due(self, now: float) -> float | None:
        """Seconds until ``wanted`` is to be written; 0: now; None: not as things are."""
        if self.wanted is None or self._stored is None or self.wanted == self._stored:
            return None
        if self._said == (self.wanted, self._stored):
            return None  # the API server keeps it in other words: as often as it is written
        at = self._not_before
        if self._unsettled_since is not None:
            at = max(at, self._unsettled_since + self._patience)
        return max(at - now, 0.0)

    def wrote(self, status: IPVSNodeStatus, version: int, stored: IPVSNodeStatus, now: float) -> None:
        """``status`` was written; the API server answered with ``stored``."""
        self._said = status, stored
        self.seen(version, stored)
        self._not_before, self._patience = now + PERIOD, UNSETTLED
        if self._unsettled_since is not None:
            self._unsettled_since = now

    def failed(self, now: float, pause: float) -> None:
        """It was not written; not again before ``pause`` seconds."""
        self._not_before = now + pause


class Publisher:
    """A thread that writes, so that a slow API server holds up nothing else."""

    def __init__(self, api: Api, node: str) -> None:
        self._api, self._node = api, node
        self._draft = Draft()
        self._pauses = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._turn = threading.Condition()
        self._stopped = False
        self._failing = ""
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What has not been written is left to the next agent."""
        with self._turn:
            self._stopped = True
            self._turn.notify()

    def join(self, timeout: float | None = None) -> None:
        self._thread.join(timeout)

    def put(self, status: IPVSNodeStatus, *, settled: bool) -> None:
        """The report as it is now; see ``Draft.want``."""
        with self._turn:
            self._draft.want(status, time.monotonic(), settled=settled)
            self._turn.notify()

    def seen(self, version: int, status: IPVSNodeStatus | None, *, turned_back: bool = False) -> None:
        """The report as the API server has it; see ``Draft.seen``. ``turned_back``: see ``Draft.forget``."""
        with self._turn:
            if turned_back:
                self._draft.forget()
            self._draft.seen(version, status)
            self._turn.notify()

    def _run(self) -> None:
        while (status := self._next()) is not None:
            value = {"metadata": {"name": self._node}, "status": msgspec.to_builtins(status)}
            try:
                answer = self._api.apply(IPVS_NODES, "", self._node, value, MANAGER, subresource="status")
                stored = msgspec.json.decode(answer, type=IPVSNode)
            except ApiError as error:
                if error.retry_after is not None:
                    self._pauses.reset()  # it is there, and says when to come again
                self._failed(f"{error.status} {error.reason}", str(error), error.retry_after or 0.0)
            except msgspec.ValidationError as error:
                self._failed("Unreadable", f"the answer cannot be read: {error}")
            else:
                self._wrote(status, stored)

    def _next(self) -> IPVSNodeStatus | None:
        """Wait for the moment to write; None: for no more."""
        with self._turn:
            while not self._stopped:
                left = self._draft.due(time.monotonic())
                if left == 0.0:
                    return self._draft.wanted
                self._turn.wait(left)
        return None

    def _wrote(self, status: IPVSNodeStatus, stored: IPVSNode) -> None:
        with self._turn:
            version = number_of(stored.metadata.resource_version)
            self._draft.wrote(status, version, stored.status, time.monotonic())
        self._pauses.reset()
        if self._failing:
            log.info("report: written again")
        self._failing = ""

    def _failed(self, kind: str, words: str, at_least: float = 0.0) -> None:
        with self._turn:
            pause = self._pauses.next(random.random(), at_least)  # noqa: S311  # jitter
            self._draft.failed(time.monotonic(), pause)
        if self._failing != kind:
            log.warning("report: %s; tried again until it is written", words)
        self._failing = kind
