"""What holds for any world, and any way to get there."""

from ipaddress import ip_address
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipvs_api.directorgroup import DirectorGroupStatus
from ipvs_api.meta import Condition
from ipvs_api.node import IPVSNodeSpec, IPVSNodeStatus
from ipvs_api.plan import SLICE_SERVERS, VirtualServicePlan
from ipvs_api.virtualservice import VirtualServiceStatus
from ipvs_planner.claims import Claims, claims_of
from ipvs_planner.compile import compile_virtual_service
from ipvs_planner.compiled import Compiled, Outcome
from ipvs_planner.fold import fold
from ipvs_planner.group_status import compile_group
from ipvs_planner.index import Key
from ipvs_planner.node_spec import compile_node
from ipvs_planner.packed import address_of, parse_address, text_of
from ipvs_planner.snapshot import Declared, Snapshot

from .strategies import NODES, NOW, REPORT, STEPS, Step
from .worlds import BASE, World, compiled, node, service

WORLDS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Each example is a world that changes up to 14 times; how long that takes says nothing about us."""


def do(snapshot: Snapshot, step: Step) -> set[Key]:
    what, value = step
    return snapshot.put(value) if what == "put" else snapshot.remove(*value)


def results(snapshot: Snapshot) -> dict[Key, Compiled]:
    keys = list(snapshot.keys())
    return {key: compile_virtual_service(snapshot, key) for key in keys}


REMEMBERED = ("_around", "_owners", "_rooms", "decided", "lags")


def inside(value: object) -> object:
    """A snapshot's tables as plain values; what is only remembered is left out."""
    if hasattr(value, "__dict__"):
        return {name: inside(part) for name, part in vars(value).items() if name not in REMEMBERED}
    return value


@pytest.mark.slow
@settings(WORLDS)
@given(STEPS, st.booleans())
def test_whoever_a_change_could_concern_is_named_and_nothing_ever_raises(steps: list[Step], trusted: bool) -> None:
    snapshot = Snapshot(trusted=trusted)
    before: dict[Key, Compiled] = {}
    for number, step in enumerate(steps):
        affected = do(snapshot, step)
        after = results(snapshot)
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert changed <= affected
        if number % 3 == 0:
            for key, result in after.items():
                named = snapshot.hold(key, result.claims)
                again = results(snapshot)
                assert {other for other in again if again[other] != after[other]} <= named
                after = again
        before = after


@pytest.mark.slow
@settings(WORLDS)
@given(STEPS, st.booleans())
def test_a_snapshot_kept_up_to_date_is_the_one_built_from_scratch(steps: list[Step], trusted: bool) -> None:
    kept = Snapshot(trusted=trusted)
    there: dict[tuple[str, str, str], Declared] = {}
    held: dict[Key, Claims] = {}
    for what, value in steps:
        do(kept, (what, value))
        if what == "put":
            there[type(value).__name__, value.metadata.namespace, value.metadata.name] = value
            continue
        there.pop(value, None)
        if value[0] == "VirtualService":
            held.pop(Key(*value[1:]), None)
    for key, result in results(kept).items():
        kept.hold(key, result.claims)
        held[key] = result.claims
    for order in (list(there.values()), list(reversed(there.values()))):
        fresh = Snapshot(trusted=trusted)
        for each in order:
            fresh.put(each)
        for key, claims in held.items():
            fresh.hold(key, claims)
        assert inside(fresh) == inside(kept)
        assert results(fresh) == results(kept)


@pytest.mark.slow
@settings(WORLDS)
@given(STEPS, st.booleans())
def test_a_caller_that_follows_the_answers_comes_to_rest_and_nothing_is_given_twice(
    steps: list[Step], trusted: bool
) -> None:
    world = World(trusted=trusted)
    for what, value in steps:
        if what == "put":
            world.put(value)
        else:
            world.remove(value[0], value[2], value[1])
        check_nothing_twice(world)
    assert {key: compile_virtual_service(world.snapshot, key) for key in world.results} == world.results


def check_nothing_twice(world: World) -> None:
    owners: dict[bytes, set[tuple[str, str]]] = {}
    vips: dict[bytes, Key] = {}
    for key, plans in world.stored.items():
        claims = claims_of(plans)
        for vip in claims.vips:
            assert vips.setdefault(vip, key) == key
            owners.setdefault(address_of(vip), set()).add((key.namespace, claims.group))
    assert all(len(each) == 1 for each in owners.values())
    gateways: dict[tuple[int, bytes], set[str]] = {}
    for result in world.results.values():
        for end in result.claims.returns if result.outcome is Outcome.PLANNED else ():
            family = len(end)
            named = {text for text in result.plans[0].spec.gateways if (":" in text) == (family > 7)}
            gateways.setdefault((family, end), set()).update(named)
    assert all(len(each) == 1 for each in gateways.values())


@pytest.mark.slow
@settings(WORLDS)
@given(STEPS, st.booleans())
def test_what_is_planned_is_what_the_api_takes_and_survives_being_stored(steps: list[Step], trusted: bool) -> None:
    snapshot = Snapshot(trusted=trusted)
    for step in steps:
        do(snapshot, step)
    for result in results(snapshot).values():
        assert (result.outcome is Outcome.PLANNED) == bool(result.plans) == (not result.refusals)
        assert claims_of(result.plans) == result.claims
        for plan in result.plans:
            assert msgspec.json.decode(msgspec.json.encode(plan), type=VirtualServicePlan) == plan


@pytest.mark.slow
@settings(WORLDS)
@given(
    STEPS,
    st.dictionaries(st.one_of(NODES, st.just("rs1")), REPORT),
    st.lists(st.sampled_from(["", NOW, "2026-01-01T01:00:00Z", "later"]), min_size=1, max_size=3),
    st.sampled_from(["", "lb1", "nobody"]),
)
def test_any_reports_fold_to_a_status_that_stays_until_something_happens(
    steps: list[Step], reports: dict[str, IPVSNodeStatus], times: list[str], here: str
) -> None:
    snapshot = Snapshot(trusted=True)
    for step in steps:
        do(snapshot, step)
    for result in results(snapshot).values():
        status: VirtualServiceStatus | None = None
        for now in times:
            status = fold(result, reports, status, now, here=here)
            again = fold(result, reports, status, now, here=here)
            assert fold(result, reports, again, now, here=here) == again
        assert status is not None
        assert msgspec.json.decode(msgspec.json.encode(status), type=VirtualServiceStatus) == status
        kinds = {each.type: each for each in status.conditions}
        assert len(kinds) == len(status.conditions)
        if kinds["Programmed"].status == "True":
            assert status.nodes.programmed == status.nodes.desired > 0
        assert ("Stalled" in kinds) == bool(result.refusals) == (kinds["Accepted"].status == "False")


@pytest.mark.slow
@settings(WORLDS)
@given(STEPS)
def test_nodes_and_groups_are_told_something_in_any_world(steps: list[Step]) -> None:
    snapshot = Snapshot()
    before: IPVSNodeSpec | None = None
    for step in steps:
        do(snapshot, step)
        before, found = compile_node(snapshot, "n1", before)
        assert compile_node(snapshot, "n1", before) == (before, found)
        assert {entry.name for entry in before.groups} <= snapshot.groups.keys()
    for name in snapshot.groups:
        status = compile_group(snapshot, name, None, NOW)
        assert isinstance(status, DirectorGroupStatus)
        assert all(isinstance(condition, Condition) for condition in status.conditions)


@settings(WORLDS)
@given(st.lists(st.integers(0, 900), min_size=1, max_size=1200, unique=True), st.sampled_from(["NAT", "DR"]))
def test_slices_hold_every_real_server_once_in_full_slices_grouped_by_node(numbers: list[int], forwarding: str) -> None:
    nodes = [node(f"n{net}", f"10.5.0.{net + 1}", pods=[f"10.6.{net}.0/24"]) for net in range(3)]
    addresses = [f"10.6.{number // 200}.{number % 200 + 1}" for number in numbers]
    result = compiled(*BASE, *nodes, service(servers=addresses, forwarding=forwarding))
    sizes = [sum(len(backend.servers) for backend in plan.spec.backends) for plan in result.plans]
    assert all(size == SLICE_SERVERS for size in sizes[:-1])
    assert 0 < sizes[-1] <= SLICE_SERVERS
    listed = [
        (backend.node, server.address)
        for p in result.plans
        for backend in p.spec.backends
        for server in backend.servers
    ]
    assert sorted(address for _, address in listed) == sorted(addresses)
    assert [name for name, _ in listed] == sorted(name for name, _ in listed)


def reference(text: str) -> str | None:
    try:
        address: Any = ip_address(text)
    except ValueError:
        return None
    mapped = address.version == 6 and (address.ipv4_mapped is not None or address.is_link_local or address.scope_id)
    zeros = address.version == 4 and text.startswith("0.")
    if mapped or zeros or address.is_multicast or address.is_loopback or address.is_unspecified:
        return None
    return None if text == "255.255.255.255" else str(address)


OCTET = st.one_of(st.integers(0, 260).map(str), st.sampled_from(["", "01", " 1", "١", "0x1"]))
HEXADECIMAL = st.one_of(st.integers(0, 0xFFFF).map("{:x}".format), st.sampled_from(["", "::", "00001", "g"]))
TEXTS = st.one_of(
    st.lists(OCTET, min_size=3, max_size=5).map(".".join),
    st.lists(HEXADECIMAL, min_size=2, max_size=9).map(":".join),
    st.ip_addresses().map(str),
    st.text(max_size=12),
)


@given(TEXTS)
def test_an_address_is_one_where_the_standard_library_says_so(text: str) -> None:
    found = parse_address(text)
    expected = reference(text)
    if isinstance(found, str):
        assert expected is None
        assert found
    else:
        assert found.text == expected == text_of(found.packed)
