"""Draining: what becomes of a real server that is in the kernel and no longer wanted. Pure.

Weight 0 first: established connections go on, new ones go elsewhere. Then deletion, once no connection is active
**and** the destination's packet counters are quiet (a half-closed download counts as inactive for IPVS), or at the
timeout. UDP is deleted at once: weight 0 never moves a UDP flow, deletion with ``expire_nodest_conn`` does.
"""

from collections.abc import Mapping
from typing import NamedTuple

from ipvs_agent.rows import ServiceKey, ServiceRow
from ipvs_agent.services import (
    IPPROTO,
    Activity,
    destination_key,
    destinations_of,
    head_of,
    join_row,
    with_weight,
)

QUIET = 6.0
"""Seconds without a packet before a destination without active connections is deleted.

IPVS publishes its counters every two seconds (``ip_vs_est.c``), so this is three of its snapshots.
"""

INTERVAL = 2.0
"""Seconds between two looks at a draining destination."""


class Draining(NamedTuple):
    """One destination on its way out. Times are seconds of ``CLOCK_BOOTTIME``.

    ``since``: weight 0 from then on; ``deadline``: deleted at the latest; ``packets`` (both ways) last moved at
    ``moved``.
    """

    since: float
    deadline: float
    packets: int = -1
    moved: float = 0.0


def observe(draining: Draining, activity: Activity | None, now: float) -> Draining:
    """The record after a look at the destination; ``activity`` None: the kernel has it no more."""
    if activity is None or activity.packets == draining.packets:
        return draining
    return draining._replace(packets=activity.packets, moved=now)


def is_done(draining: Draining, activity: Activity | None, now: float) -> bool:
    """True once it may be deleted."""
    if activity is None or now >= draining.deadline:
        return True
    quiet = draining.packets == activity.packets and now - max(draining.moved, draining.since) >= QUIET
    return activity.active == 0 and quiet


def drained_row(
    key: ServiceKey, wanted: ServiceRow, observed: ServiceRow, done: Mapping[bytes, bool]
) -> tuple[ServiceRow, list[bytes]]:
    """The row to write, and the destinations (keys) that drain in it.

    ``wanted`` plus every destination of ``observed`` that is missing there, at weight 0, unless ``done`` says it may
    go or it is UDP.
    """
    keep = {destination_key(packed) for packed in destinations_of(wanted)}
    leaving = []
    for packed in destinations_of(observed):
        name = destination_key(packed)
        if name in keep or done.get(name, False) or key[1] == IPPROTO["UDP"]:
            continue
        leaving.append(with_weight(packed, 0))
    if not leaving:
        return wanted, []
    return join_row(head_of(wanted), destinations_of(wanted) + leaving), [destination_key(packed) for packed in leaving]
