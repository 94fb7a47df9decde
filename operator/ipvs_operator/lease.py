"""Which of several operators works: who holds the Lease.

Times of other machines' clocks are never compared with ours: a lease runs out when it has not changed for its duration
since *we* first saw it as it is. A holder works only while it knows that nobody else can have taken over; one that
loses the lease never gets it back, its process ends.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Protocol

import msgspec

from ipvs_api.meta import ObjectMeta
from ipvs_kube.api import Api
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import LEASES

log = logging.getLogger(__name__)

LEASE_SECONDS = 15
"""So long others wait before they take over from a holder that says nothing."""
RENEW_SECONDS = 10.0
"""So long a holder goes on after the beginning of its last renewal; less, since clocks and answers may be slow."""
RETRY_SECONDS = 2.0
REQUEST_SECONDS = 3.0
"""For one request: several have to fit into ``RENEW_SECONDS``."""
UNKNOWN = "unknown"
"""In place of whoever held a lease that was deleted."""
FIELD_MANAGER = "ipvs-operator-lease"


class LeaseSpec(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True):
    """``coordination.k8s.io/v1``."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    spec: LeaseSpec = LeaseSpec()


class Decision(Enum):
    WAIT = "somebody else holds it"
    RENEW = "it is ours"
    TAKE = "nobody holds it, or its holder has been silent for too long"


def decide(record: LeaseSpec | None, first_seen: float, me: str, now: float) -> Decision:
    """``record``: the lease, None where there is none. ``first_seen``: when it was first seen as it is; that and
    ``now`` are seconds of our own steady clock."""
    if record is None or not record.holder_identity:
        return Decision.TAKE
    if record.holder_identity == me:
        return Decision.RENEW
    duration = record.lease_duration_seconds or LEASE_SECONDS
    return Decision.TAKE if now - first_seen >= duration else Decision.WAIT


class Leases(Protocol):
    """Where the lease is kept. ApiError for whatever is no success."""

    def read(self) -> Lease | None: ...
    def write(self, spec: LeaseSpec, over: Lease | None) -> Lease:
        """Only over the very version ``over``, or where there is none."""


class ApiLease:
    """The Lease ``namespace``/``name`` of an API server, by a connection that nobody else uses."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api, self._namespace, self._name = api, namespace, name

    def read(self) -> Lease | None:
        try:
            return self._request("GET", LEASES.path(self._namespace, self._name))
        except ApiError as error:
            if error.not_found:
                return None
            raise

    def write(self, spec: LeaseSpec, over: Lease | None) -> Lease:
        metadata: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
        value = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}
        if over is None:
            return self._request("POST", LEASES.path(self._namespace), value)
        metadata |= {"uid": over.metadata.uid, "resourceVersion": over.metadata.resource_version}
        return self._request("PUT", LEASES.path(self._namespace, self._name), value)

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Lease:
        query = {"fieldManager": FIELD_MANAGER} if body is not None else None
        answer = self._api.request(method, path, query, body, timeout=(REQUEST_SECONDS, REQUEST_SECONDS))
        try:
            return msgspec.json.decode(answer.data, type=Lease)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise ApiError(0, "Unreadable", f"{method} {path}: not a Lease: {error}") from error


def steady() -> float:
    """Seconds of a clock that also counts while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Tenure:
    """What one candidate knows of the lease, and does about it, one ``step`` after the other."""

    def __init__(self, leases: Leases, me: str, clock: Callable[[], float] = steady) -> None:
        self._leases, self.me, self._clock = leases, me, clock
        self._lease: Lease | None = None
        self._record: LeaseSpec | None = None
        """As last seen, also where the lease has been deleted since; None: never seen."""
        self._first_seen = clock()
        self._held_until: float | None = None

    @property
    def surely_held(self) -> bool:
        """Nobody else can hold it now: what is written before this turns false is ours to write."""
        until = self._held_until
        return until is not None and self._clock() < until

    @property
    def lost(self) -> bool:
        """It was held, and is not for sure any more."""
        return self._held_until is not None and not self.surely_held

    @property
    def holder(self) -> str:
        """Who holds it, as last seen; empty: nobody."""
        return (self._record.holder_identity or "") if self._record is not None else ""

    def step(self) -> None:
        """Renew it, take it, or see that somebody else has it. ApiError."""
        if not self.surely_held:
            self._see(self._leases.read())
        began = self._clock()
        wanted = self._wanted(began)
        if wanted is None:
            return
        try:
            written = self._leases.write(wanted, self._lease)
        except ApiError as error:
            if not (error.conflict or error.already_exists or error.not_found):
                raise
            self._see(self._leases.read())  # somebody was quicker
            return
        self._see(written)
        if wanted.holder_identity == self.me:
            self._held_until = began + RENEW_SECONDS

    def _wanted(self, now: float) -> LeaseSpec | None:
        """What is to be written now; None: nothing."""
        if self.lost:
            return None
        if self._lease is None and self._record is not None and not self.surely_held:
            # Somebody has deleted it, and who holds it may not know that yet. That it is not there has no version by
            # which others would notice that it was in between, so it is put there again, and left to run out.
            return LeaseSpec(holder_identity=UNKNOWN, lease_duration_seconds=LEASE_SECONDS)
        decision = decide(self._record, self._first_seen, self.me, now)
        return None if decision is Decision.WAIT else _next(self._record or LeaseSpec(), self.me, decision)

    def give_up(self) -> None:
        """Let others have it at once. ApiError."""
        if self.surely_held and self._record is not None:
            self._held_until = self._clock()
            nobody = msgspec.structs.replace(self._record, holder_identity="", lease_duration_seconds=1)
            self._leases.write(nobody, self._lease)

    def _see(self, lease: Lease | None) -> None:
        known, self._lease = self._lease, lease
        if lease is None:
            return
        if known is None or known.metadata.resource_version != lease.metadata.resource_version:
            self._record, self._first_seen = lease.spec, self._clock()
        if self._held_until is not None and lease.spec.holder_identity != self.me:
            self._held_until = self._clock()


def _next(spec: LeaseSpec, me: str, decision: Decision) -> LeaseSpec:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    taken = decision is Decision.TAKE
    return LeaseSpec(
        holder_identity=me,
        lease_duration_seconds=LEASE_SECONDS,
        acquire_time=now if taken or not spec.acquire_time else spec.acquire_time,
        renew_time=now,
        lease_transitions=(spec.lease_transitions or 0) + taken,
    )


class Elector:
    """Works at a tenure in a thread of its own, so that nothing else keeps it from renewing.

    ``started`` is called there once the lease is held, ``lost`` once it is lost; both at most once.
    """

    def __init__(self, tenure: Tenure, started: Callable[[], None], lost: Callable[[str], None]) -> None:
        self._tenure, self._started, self._lost = tenure, started, lost
        self._stopped = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Give the lease up, if it is held, so that another operator takes over at once."""
        self._stopped.set()
        self._thread.join(2 * REQUEST_SECONDS)
        if self._thread.is_alive():
            return
        try:
            self._tenure.give_up()
        except ApiError as error:
            log.warning("the lease could not be given up: %s", error)

    def _run(self) -> None:
        held = False
        try:
            while not self._stopped.is_set() and not self._tenure.lost:
                self._step()
                if self._tenure.surely_held and not held:
                    held = True
                    self._started()
                # Not all at the same moment, so that candidates do not meet for ever.
                self._stopped.wait(RETRY_SECONDS * random.uniform(0.8, 1.0))  # noqa: S311
        finally:
            if not self._stopped.is_set():
                self._lost(self._trouble or f"it is held by {self._tenure.holder or 'nobody'}")

    def _step(self) -> None:
        try:
            self._tenure.step()
            self._trouble = ""
        except ApiError as error:
            if str(error) != self._trouble:
                log.warning("lease: %s", error)
            self._trouble = str(error)
