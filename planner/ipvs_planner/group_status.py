"""What a DirectorGroup's status says."""

from ipvs_api.directorgroup import AddressTotals, DirectorGroupStatus
from ipvs_api.meta import Condition, ConditionStatus
from ipvs_planner.compiled import joined
from ipvs_planner.conditions import settle
from ipvs_planner.groups import Directors, GroupFacts
from ipvs_planner.node_spec import disagreements
from ipvs_planner.reasons import Finding, Reason
from ipvs_planner.selectors import words
from ipvs_planner.snapshot import Snapshot

LARGEST_TOTAL = 2**53 - 1


def compile_group(
    snapshot: Snapshot, name: str, previous: DirectorGroupStatus | None, now: str
) -> DirectorGroupStatus | None:
    """The status of DirectorGroup ``name``; None: there is no such group. ``now``: RFC 3339."""
    group = snapshot.groups.get(name)
    if group is None:
        return None
    directors = snapshot.directors[name]
    conditions = (_accepted(snapshot, group, directors), _ready(group, directors))
    return DirectorGroupStatus(
        observed_generation=group.generation,
        conditions=settle(conditions, previous.conditions if previous is not None else (), now),
        addresses=AddressTotals(min(group.size, LARGEST_TOTAL), snapshot.addresses.pool.used(name)),
        directors=directors.nodes,
    )


def _accepted(snapshot: Snapshot, group: GroupFacts, directors: Directors) -> Condition:
    notes = disagreements(snapshot, group.name)
    if directors.matching > len(directors.nodes):
        notes += (
            Finding(
                Reason.TOO_MANY_DIRECTORS,
                f"spec.nodeSelector: {directors.matching} Nodes match; the first {len(directors.nodes)} by name direct",
            ),
        )
    if group.connection_sync:
        notes += (
            Finding(
                Reason.CONNECTION_SYNC_NOT_USED,
                "spec.connectionSync is not used by this version: connections end with the director that has them.",
            ),
        )
    return Condition(
        type="Accepted",
        status=ConditionStatus.FALSE if group.findings else ConditionStatus.TRUE,
        reason=group.findings[0].reason if group.findings else Reason.ACCEPTED,
        message=joined(group.findings or notes),
        observed_generation=group.generation,
    )


def _ready(group: GroupFacts, directors: Directors) -> Condition:
    """Whether virtual services can be directed by it at all; whether each of them is, its own status says."""
    if group.findings:
        ready, reason, message = False, group.findings[0].reason, "It cannot be used as it is written."
    elif not directors.nodes:
        ready, reason = False, Reason.NO_DIRECTORS
        message = f"No Node matches spec.nodeSelector ({words(group.selector)})."
    else:
        ready, reason, message = True, Reason.ACCEPTED, ""
    return Condition(
        type="Ready",
        status=ConditionStatus.TRUE if ready else ConditionStatus.FALSE,
        reason=reason,
        message=message,
        observed_generation=group.generation,
    )
