"""How long a plan may wait for its like. Hundreds of nodes report one after the other, and what is written of the word
of each makes all of them report again: written at once, it would be so many plans, and so many reports of each. Pure.
"""

from collections.abc import Callable

from msgspec.structs import replace

from ipvs_api.plan import VirtualServicePlanSpec

PACE_SECONDS = 1.0
"""For few nodes, and for statuses in which only counts and words differ."""

REPORTS = 50
"""As many nodes report in a second even where an API server has much else to do."""


def pace(nodes: int) -> float:
    """Seconds from one plan to the next, while more is to come from some of so many ``nodes``."""
    return PACE_SECONDS * max(1.0, nodes / REPORTS)


def one_of_many(before: VirtualServicePlanSpec, after: VirtualServicePlanSpec, heard_of: Callable[[str], bool]) -> bool:
    """All that is new is that directors may send to more real servers, and nodes that are heard of are to follow."""
    if replace(before, backends=()) != replace(after, backends=()):
        return False
    known = {(each.node, each.role): each for each in before.backends}
    if known.keys() != {(each.node, each.role) for each in after.backends}:
        return False
    for each in after.backends:
        was = known[each.node, each.role]
        if each not in (was, replace(was, directed=True)):
            return False
    return any(not each.directed and heard_of(each.node) for each in after.backends)
