"""Which plan may wait for its like, and how long."""

from msgspec.structs import replace

from ipvs_api.plan import VirtualServicePlanSpec
from ipvs_planner.pace import one_of_many, pace

from .worlds import BASE, compiled, group, service

HOSTS = ("10.0.0.11", "10.0.0.12")


def spec(*directed: bool) -> VirtualServicePlanSpec:
    """A plan with a real server on each of two nodes, and whether directors may send to them."""
    made = compiled(*BASE, group(), service(servers=HOSTS, forwarding="DR")).plans[0].spec
    backends = (replace(each, directed=to) for each, to in zip(made.backends, directed, strict=True))
    return replace(made, backends=tuple(backends))


def waits(before: VirtualServicePlanSpec, after: VirtualServicePlanSpec, *silent: str) -> bool:
    return one_of_many(before, after, lambda node: node not in silent)


def test_one_node_of_several_waits_for_the_others() -> None:
    assert waits(spec(False, False), spec(True, False))


def test_the_last_node_does_not_wait() -> None:
    assert not waits(spec(True, False), spec(True, True))
    assert not waits(spec(False, False), spec(True, True))


def test_nobody_waits_for_a_node_that_is_silent() -> None:
    after = spec(True, False)
    assert not waits(spec(False, False), after, after.backends[1].node)


def test_whatever_else_is_new_does_not_wait() -> None:
    before, after = spec(True, False), spec(True, False)
    fewer = replace(after.backends[1], servers=())
    for changed in (
        spec(False, False),
        replace(after, scheduler="rr"),
        replace(after, withdrawn=True),
        replace(after, backends=after.backends[1:]),
        replace(after, backends=(after.backends[0], fewer)),
    ):
        assert not waits(before, changed)


def test_the_pace_follows_the_number_of_nodes_that_have_to_report() -> None:
    assert pace(1) == pace(50) == 1.0
    assert pace(500) == 10.0
