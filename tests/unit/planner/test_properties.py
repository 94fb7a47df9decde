"""What holds for any world, and any way to get there."""

from ipaddress import ip_address
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ipvs_api.core import Node
from ipvs_api.directorgroup import DirectorGroup, DirectorGroupStatus
from ipvs_api.meta import Condition
from ipvs_api.node import IPVSNodeSpec, IPVSNodeStatus
from ipvs_api.plan import SLICE_SERVERS, VirtualServicePlan
from ipvs_api.virtualservice import Scheduler, VirtualService, VirtualServiceStatus
from ipvs_planner.claims import Claims, claims_of
from ipvs_planner.compile import compile_virtual_service
from ipvs_planner.compiled import Compiled, Outcome
from ipvs_planner.fold import fold
from ipvs_planner.group_status import compile_group
from ipvs_planner.index import Key
from ipvs_planner.node_spec import compile_node
from ipvs_planner.packed import address_of, parse_address, text_of
from ipvs_planner.snapshot import Declared, Snapshot

from .worlds import BASE, DIRECTOR, World, compiled, group, node, service, unchecked

NOW = "2026-01-01T00:00:00Z"

# Few values, so that objects meet; and now and then what no schema would let through.
ODD = st.one_of(st.text(max_size=8), st.sampled_from(["192.0.2.1/24", "::ffff:10.0.0.1", "fe80::1%eth0", "1.2.3", ""]))
VIPS = st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:DB8:0::1", "198.51.100.1", "10.0.0.11"])
RIPS = st.sampled_from(
    [
        "10.0.0.11",
        "10.0.0.12",
        "10.0.0.13",
        "10.1.1.5",
        "10.1.2.5",
        "10.1.3.5",
        "10.9.9.9",
        "2001:db8:1::11",
        "fd00:2::5",
    ]
)
NAMES = st.sampled_from(["a", "b", "c", "d"])
GROUPS = st.sampled_from(["edge", "core", "far"])
NODES = st.sampled_from(["n1", "n2", "n3"])


def often(usual: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 15).flatmap(lambda number: odd if number == 0 else usual)


def of(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping in which any field may be missing."""
    return st.fixed_dictionaries({}, optional=fields)


def meta(names: st.SearchStrategy[str], namespaces: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"name": names, "namespace": namespaces},
        optional={"creationTimestamp": st.sampled_from([NOW, "2026-02-01T00:00:00Z"]), "generation": st.integers(0, 3)},
    )


PORT = st.fixed_dictionaries(
    {"name": st.sampled_from(["x", "y"]), "port": often(st.sampled_from([80, 443]), st.integers(-1, 70000))},
    optional={
        "protocol": st.sampled_from(["TCP", "UDP", "SCTP"]),
        "targetPort": st.sampled_from([0, 80, 8080]),
        "servicePort": st.just("web"),
    },
)
SERVER = st.fixed_dictionaries(
    {"address": often(RIPS, ODD)},
    optional={"weight": st.integers(0, 3), "maxConnections": st.integers(0, 2), "resumeConnections": st.integers(0, 2)},
)
SERVICE_SPEC = st.fixed_dictionaries(
    {
        "directorGroup": GROUPS,
        "addresses": st.lists(often(VIPS, ODD), max_size=2),
        "ports": often(st.lists(PORT, min_size=1, max_size=1), st.lists(PORT, max_size=3)),
        "backends": often(
            st.fixed_dictionaries({"static": st.lists(SERVER, min_size=1, max_size=3)}),
            of(static=st.lists(SERVER, max_size=3), service=st.just({"name": "web"})),
        ),
    },
    optional={
        "forwarding": st.sampled_from(["NAT", "DR", "TUN"]),
        "nat": st.just({"returnPath": "Gateway"}),
        "scheduler": st.sampled_from([str(scheduler) for scheduler in Scheduler]),
        "allowedSources": st.lists(often(st.sampled_from(["10.0.0.0/8", "2001:db8::/32"]), ODD), max_size=2),
        "tunnel": often(st.just({"type": "GRE"}), st.just({"type": "GUE", "port": 0})),
        "onePacket": often(st.just(False), st.just(True)),
    },
)
SERVICE = st.builds(
    lambda metadata, spec: unchecked(VirtualService, {"metadata": metadata, "spec": spec}),
    meta(NAMES, st.sampled_from(["shop", "shop", "shop", "zoo"])),
    SERVICE_SPEC,
)
SELECTOR = st.sampled_from(
    [
        {"matchLabels": DIRECTOR},
        {},
        {"matchExpressions": [{"key": "ipvs.dev/director", "operator": "In", "values": []}]},
        {"matchExpressions": [{"key": "ipvs.dev/director", "operator": "DoesNotExist"}]},
    ]
)
RANGES = ["192.0.2.0/28", "2001:db8::/120", "198.51.100.0/28", "192.0.2.1-192.0.2.1", "10.0.0.0/24"]
GROUP_SPEC = st.fixed_dictionaries(
    {
        "addresses": st.lists(often(st.sampled_from(RANGES), ODD), max_size=4),
        "announcement": often(
            st.sampled_from([{"static": {}}, {"none": {}}]), st.sampled_from([{}, {"static": {}, "none": {}}])
        ),
        "nodeSelector": often(st.just({"matchLabels": DIRECTOR}), SELECTOR),
    },
    optional={
        "gatewayAddresses": st.lists(often(st.sampled_from(["10.0.0.251", "10.0.0.252"]), ODD), max_size=2),
        "allowedStaticBackends": st.just(["10.0.0.0/8"]),
        "allowedNamespaces": st.sampled_from(
            [
                {"from": "All"},
                {"from": "Selector"},
                {"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}},
            ]
        ),
        "kernel": st.sampled_from([{"sloppyTCP": True}, {"sloppyTCP": False, "timeouts": {"tcpSeconds": 5}}]),
    },
)
GROUP = st.builds(
    lambda name, spec: unchecked(DirectorGroup, {"metadata": {"name": name}, "spec": spec}), GROUPS, GROUP_SPEC
)
NODE = st.builds(
    lambda name, director, own, pods: unchecked(
        Node,
        {
            "metadata": {"name": name, "labels": DIRECTOR if director else {}},
            "spec": {"podCIDRs": pods},
            "status": {"addresses": [{"type": "InternalIP", "address": address} for address in own]},
        },
    ),
    NODES,
    st.booleans(),
    st.lists(often(st.one_of(RIPS, RIPS, VIPS), ODD), max_size=2),
    st.lists(often(st.sampled_from(["10.1.1.0/24", "10.1.2.0/24", "10.1.0.0/16", "fd00:2::/64"]), ODD), max_size=2),
)
Step = tuple[str, Any]
REMOVAL = st.one_of(
    st.tuples(st.just("VirtualService"), st.sampled_from(["shop", "zoo"]), NAMES),
    st.tuples(st.just("DirectorGroup"), st.just(""), GROUPS),
    st.tuples(st.just("Node"), st.just(""), NODES),
)
PUT = st.tuples(st.just("put"), st.one_of(SERVICE, SERVICE, SERVICE, GROUP, NODE))
STEP = st.one_of(PUT, PUT, PUT, st.tuples(st.just("remove"), REMOVAL))
FIRST = [("put", each) for each in (*BASE, group("core"))]
STEPS = st.lists(STEP, min_size=1, max_size=14).map(lambda steps: [*FIRST, *steps])
TRUSTED = st.booleans()


def do(snapshot: Snapshot, step: Step) -> set[Key]:
    what, value = step
    return snapshot.put(value) if what == "put" else snapshot.remove(*value)


def results(snapshot: Snapshot) -> dict[Key, Compiled]:
    keys = list(snapshot.keys())
    return {key: compile_virtual_service(snapshot, key) for key in keys}


def inside(value: object) -> object:
    """A snapshot's tables as plain values; what is only remembered for sharing is left out."""
    if hasattr(value, "__dict__"):
        return {name: inside(part) for name, part in vars(value).items() if name != "_owners"}
    return value


@given(STEPS, TRUSTED)
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


@given(STEPS, TRUSTED)
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


@given(STEPS, TRUSTED)
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


@given(STEPS, TRUSTED)
def test_what_is_planned_is_what_the_api_takes_and_survives_being_stored(steps: list[Step], trusted: bool) -> None:
    snapshot = Snapshot(trusted=trusted)
    for step in steps:
        do(snapshot, step)
    for result in results(snapshot).values():
        assert (result.outcome is Outcome.PLANNED) == bool(result.plans) == (not result.refusals)
        assert claims_of(result.plans) == result.claims
        for plan in result.plans:
            assert msgspec.json.decode(msgspec.json.encode(plan), type=VirtualServicePlan) == plan


FAILURE = {"namespace": "shop", "name": "a", "reason": "Broken"}
REPORT = st.builds(
    lambda value: unchecked(IPVSNodeStatus, value),
    of(
        observedResourceVersion=st.sampled_from(["", "1", "2", "x"]),
        truncated=st.booleans(),
        counts=of(failures=st.integers(0, 3), draining=st.integers(0, 3), unhealthy=st.integers(0, 3)),
        failures=st.lists(of(reason=ODD, message=ODD, realServer=often(RIPS, ODD)).map(FAILURE.__or__), max_size=3),
    ),
)


@given(
    STEPS,
    st.dictionaries(st.one_of(NODES, st.sampled_from(["lb1", "rs1"])), REPORT),
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


@settings(max_examples=20)
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
