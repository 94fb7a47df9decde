"""What compiling a VirtualService gives: plans or reasons, and what to do with what is programmed."""

from enum import StrEnum
from typing import NamedTuple

import msgspec

from ipvs_api.ipaddress import IPVSAddress
from ipvs_api.meta import Condition, ConditionStatus
from ipvs_api.plan import VirtualServicePlan
from ipvs_planner.claims import NOTHING, Claims
from ipvs_planner.index import Key
from ipvs_planner.reasons import WITHDRAWN, Finding, Reason

MESSAGE_LENGTH = 4096
"""Longest message of a condition; further findings are counted."""


class Outcome(StrEnum):
    """What the caller does with the plans it has stored for this VirtualService."""

    PLANNED = "Planned"
    """Replace them by ``Compiled.plans``."""
    KEPT = "Kept"
    """Leave them as they are: refused, in a way that is no reason to cut connections."""
    WITHDRAWN = "Withdrawn"
    """Delete them, which drains: the VirtualService is gone, or must not have what it has."""


class ServerCounts(NamedTuple):
    """Real servers that there should be, and those that can serve; ``healthy`` None: nobody checks."""

    total: int = 0
    healthy: int | None = None


class Compiled(msgspec.Struct, frozen=True):
    """``plans`` is empty unless ``outcome`` is Planned. ``refusals``: why not; ``notes``: accepted, but worth knowing.

    ``claiming``: addresses to claim before anything else is done, and then to compile again, also for one that is
    refused: IPVSAddress objects to create where they have no uid, else to write over the one of that uid and
    resourceVersion. ``claims`` is what to ``Snapshot.hold`` once the plans are stored (nothing, once they are withdrawn
    and gone).
    """

    key: Key
    outcome: Outcome
    generation: int = 0
    plans: tuple[VirtualServicePlan, ...] = ()
    refusals: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()
    claims: Claims = NOTHING
    claiming: tuple[IPVSAddress, ...] = ()
    servers: ServerCounts = ServerCounts()


def refused(
    key: Key, generation: int, refusals: tuple[Finding, ...], claiming: tuple[IPVSAddress, ...] = ()
) -> Compiled:
    withdrawn = any(finding.reason in WITHDRAWN for finding in refusals)
    outcome = Outcome.WITHDRAWN if withdrawn else Outcome.KEPT
    return Compiled(key, outcome, generation, refusals=refusals, claiming=claiming)


def accepted_condition(compiled: Compiled) -> Condition:
    """``Accepted``, without a time: the first refusal's reason and everybody's words."""
    findings = compiled.refusals or compiled.notes
    return Condition(
        type="Accepted",
        status=ConditionStatus.FALSE if compiled.refusals else ConditionStatus.TRUE,
        reason=compiled.refusals[0].reason if compiled.refusals else Reason.ACCEPTED,
        message=joined(findings),
        observed_generation=compiled.generation,
    )


def joined(findings: tuple[Finding, ...]) -> str:
    """All messages, one line each, up to ``MESSAGE_LENGTH``."""
    lines: list[str] = []
    room = MESSAGE_LENGTH
    for index, finding in enumerate(findings):
        line = finding.message[:room]
        if index and room < len(finding.message) + 20:
            lines.append(f"and {len(findings) - index} more")
            break
        lines.append(line)
        room -= len(line) + 1
    return "\n".join(lines)
