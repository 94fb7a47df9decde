"""Plans in slices: cut apart and put together again, whole, half written, or old beside new."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ipvs_agent.slices import apart, as_objects, together
from ipvs_api.plan import SLICE_SERVERS, PlanBackend, PlanServer, ServerRole, VirtualServicePlanSpec

from .plans import plan


def backend(node: str, *numbers: int, weight: int = 1) -> PlanBackend:
    servers = tuple(PlanServer(f"10.{n // 65536}.{n // 256 % 256}.{n % 256}", (80,), weight) for n in numbers)
    return PlanBackend(ServerRole.SECOND_HOP, servers, node)


def of(number: int, slices: int, *backends: PlanBackend, **more: object) -> VirtualServicePlanSpec:
    return plan(backends=backends, slice=number, slices=slices, **more)


def servers(spec: VirtualServicePlanSpec) -> dict[str, int]:
    """Weight by address; each address once."""
    found = [(server.address, server.weight) for each in spec.backends for server in each.servers]
    assert len(found) == len(dict(found))
    return dict(found)


@st.composite
def whole_plans(draw: st.DrawFn) -> VirtualServicePlanSpec:
    sizes = draw(st.lists(st.integers(0, SLICE_SERVERS), max_size=8))
    backends, first = [], 0
    for position, size in enumerate(sizes):
        backends.append(backend(f"n{position}", *range(first, first + size)))
        first += size
    return plan(backends=tuple(backends))


@pytest.mark.slow
@given(whole_plans())
def test_slices_put_together_in_any_order_of_writing_are_the_plan(whole: VirtualServicePlanSpec) -> None:
    parts = apart(whole)
    kept = replace(whole, backends=tuple(each for each in whole.backends if each.servers or len(parts) == 1))
    assert together(parts) == kept
    assert together(parts[::-1]) == kept


@given(whole_plans())
def test_no_slice_holds_more_than_may_be_in_one(whole: VirtualServicePlanSpec) -> None:
    parts = apart(whole)
    assert [part.slice for part in parts] == list(range(len(parts)))
    assert {part.slices for part in parts} == {len(parts)}
    assert all(sum(len(each.servers) for each in part.backends) <= SLICE_SERVERS for part in parts)
    assert len({each.metadata.name for each in as_objects(whole)}) == len(parts)


def test_the_newest_head_stands() -> None:
    old, new = of(1, 2, backend("b", 2)), of(0, 2, backend("a", 1), drain_timeout_seconds=7)
    assert together([old, new]).drain_timeout_seconds == 7
    assert together([new, old]).drain_timeout_seconds == 60


def test_a_slice_that_the_newest_head_does_not_count_is_left_out() -> None:
    assert servers(together([of(1, 2, backend("b", 2)), of(0, 1, backend("a", 1))])) == {"10.0.0.1": 1}


def test_a_real_server_in_two_slices_counts_where_it_was_written_last() -> None:
    moved = [of(0, 2, backend("a", 1, 2)), of(1, 2, backend("a", 2, 3, weight=5))]
    assert servers(together(moved)) == {"10.0.0.1": 1, "10.0.0.2": 5, "10.0.0.3": 5}
    assert servers(together(moved[::-1])) == {"10.0.0.1": 1, "10.0.0.2": 1, "10.0.0.3": 5}


def test_a_slice_that_has_not_come_leaves_its_real_servers_out_only() -> None:
    assert servers(together([of(0, 3, backend("a", 1)), of(2, 3, backend("c", 3))])) == {"10.0.0.1": 1, "10.0.0.3": 1}
