"""What every source of plans is to the agent: something to look at when it says that there is news."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ipvs_agent.ledger import Owner
from ipvs_api.node import IPVSNodeSpec, IPVSNodeStatus
from ipvs_api.plan import VirtualServicePlanSpec


@dataclass(frozen=True)
class Update:
    """What one look brought.

    plans             changed ones, None for those to drain
    node              what the node as a whole is told
    errors            what could not be taken, in words; ``reason`` is theirs, for a condition
    recheck           seconds until the source wants another look; None: not on its own
    resource_version  up to here all plans have been given, empty where plans have none or they are not known yet
    unreadable        plans that cannot be taken as they are, why; what was in force of them stays
    known             all that is wanted has been read once
    reported          once, when it is known: what this node's agent last reported, None where it never did
    """

    plans: Mapping[Owner, VirtualServicePlanSpec | None]
    node: IPVSNodeSpec
    errors: tuple[str, ...] = ()
    recheck: float | None = None
    reason: str = "Invalid"
    resource_version: str = ""
    unreadable: Mapping[Owner, str] = field(default_factory=dict)
    known: bool = True
    reported: IPVSNodeStatus | None = None


class Judgement(NamedTuple):
    """What planning on this host said of a VirtualService, each finding as reason and words.

    ``generation`` None: the one that its plan names.
    """

    outcome: str
    generation: int | None = None
    refusals: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()


class Source(Protocol):
    """Used from the kernel thread, but for ``watch`` and ``close``, which are the event loop's."""

    @property
    def condition(self) -> str:
        """The condition of the node's report that says whether all could be read."""

    @property
    def away(self) -> str:
        """Why no news can come now, and since when; empty while they can."""

    def watch(self, wake: Callable[[], None]) -> None:
        """Notice what changes from now on. ``wake`` may be called from any thread: there is something to look at."""

    def renew(self) -> None:
        """With every audit: look at everything again, where notices may have been missed."""

    def look(self, now: float) -> Update:
        """What is new. ``now``: seconds of a clock that only goes forward."""

    def publish(self, status: IPVSNodeStatus, *, settled: bool) -> None:
        """Tell what the node reports. ``settled``: nothing is under way that would change it in a moment."""

    def judgements(self) -> Mapping[tuple[str, str], Judgement]:
        """By namespace and name, what there is to say of VirtualServices besides their plans."""

    def close(self) -> None:
        """No more notices."""
