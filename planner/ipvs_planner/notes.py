"""What a user should know about a VirtualService that is accepted."""

from collections.abc import Iterator, Sequence

from ipvs_api.plan import ServerRole
from ipvs_api.virtualservice import Forwarding, Scheduler
from ipvs_planner.intake import Intake
from ipvs_planner.packed import FAMILIES, V6
from ipvs_planner.reasons import Finding, Reason
from ipvs_planner.refusals import missing_address
from ipvs_planner.servers import Placed

WEIGHTED = {Scheduler.RR: Scheduler.WRR, Scheduler.LC: Scheduler.WLC}
"""Schedulers that do not look at weights, and what to use where weights are the nodes' shares."""

BY_ADDRESS = (Scheduler.DH, Scheduler.LBLC, Scheduler.LBLCR)
"""Schedulers that choose by the destination address, which is one VIP here."""


def plan_scheduler(intake: Intake, served: Sequence[Placed]) -> Scheduler:
    """The one asked for, or its weighted sister where nodes stand in front of several real servers.

    A Service's real servers come and go, so its scheduler does not wait for them.
    """
    hops = bool(intake.service) or any(entry.role is ServerRole.SECOND_HOP for entry in served)
    hops = hops and intake.forwarding is not Forwarding.NAT
    return WEIGHTED.get(intake.scheduler, intake.scheduler) if hops else intake.scheduler


def notes_on(intake: Intake, placed: Sequence[Placed], served: Sequence[Placed]) -> Iterator[Finding]:
    scheduler = plan_scheduler(intake, served)
    if scheduler is not intake.scheduler:
        yield Finding(
            Reason.SCHEDULER_CHANGED,
            f"Scheduler {intake.scheduler} became {scheduler}: directors forward to the real servers' nodes, weighted "
            "by their share.",
        )
    weights = {entry.server.weight for entry in placed if entry.server.weight > 0}
    if scheduler in WEIGHTED and len(weights) > 1:
        yield Finding(
            Reason.SCHEDULER_IGNORES_WEIGHTS,
            f"Scheduler {scheduler} treats all weights above 0 alike; {WEIGHTED[scheduler]} looks at them.",
        )
    if scheduler in BY_ADDRESS and len(placed) > 1:
        yield Finding(
            Reason.ONE_SERVER_PER_ADDRESS,
            f"Scheduler {scheduler} chooses by the destination address, so each address goes to one real server.",
        )
    for vip in intake.vips if intake.sources else ():
        if not any((":" in source) == (len(vip.packed) == V6) for source in intake.sources):
            yield Finding(
                Reason.SOURCES_OF_ONE_FAMILY,
                f"Nobody may connect to {vip.text}: spec.allowedSources has no {FAMILIES[len(vip.packed)]} prefix.",
            )
    for entry in placed if len(served) < len(placed) else ():
        if not entry.reachable:
            yield Finding(Reason.NODE_ADDRESS_MISSING, f"Left out: {missing_address(entry)}.")
    if intake.checks_health:
        weights_kept = "each keeps its weight, whatever its state" if not intake.service else "who is ready, serves"
        yield Finding(Reason.HEALTH_NOT_CHECKED, f"Real servers are not checked by this version: {weights_kept}.")
    if intake.has_fallback:
        yield Finding(
            Reason.FALLBACK_NOT_USED, "spec.fallback is not used by this version, which calls no real server unhealthy."
        )
