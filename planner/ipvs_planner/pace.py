"""Which plan may wait for its like: hundreds of nodes report one after the other, and what is written of each report
makes all of them report again. Pure."""

from msgspec.structs import replace

from ipvs_api.plan import VirtualServicePlanSpec


def one_of_many(before: VirtualServicePlanSpec, after: VirtualServicePlanSpec) -> bool:
    """All that is new is that directors may send to more real servers, and there are others that they may not yet."""
    if replace(before, backends=()) != replace(after, backends=()):
        return False
    known = {(each.node, each.role): each for each in before.backends}
    if known.keys() != {(each.node, each.role) for each in after.backends}:
        return False
    for each in after.backends:
        was = known[each.node, each.role]
        if each not in (was, replace(was, directed=True)):
            return False
    return not all(each.directed for each in after.backends)
