"""The store: news twice, late, in any order and not at all end in what is, and whoever has something to do is marked.

What is told is the history of a small cluster, in which operators and nodes have written: plans, claims, reports.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipvs_api.core import Node, Pod
from ipvs_api.meta import ObjectKey
from ipvs_operator.items import Item, Work
from ipvs_operator.store import Store
from ipvs_planner.index import Key
from ipvs_planner.snapshot import Declared
from ipvs_planner.writes import Reconciliation, Verb, Write

from ..planner.backed import core, fronting, slice_, space
from ..planner.fleet import ApiServer, Entry, Fleet, Operator
from ..planner.worlds import BASE, group, node, service

HISTORIES = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])

EDGE = group(addresses=["192.0.2.1-192.0.2.3"], allowedStaticBackends=["10.0.0.0/8"])
TEAMS = {"from": "Selector", "selector": {"matchLabels": {"team": "web"}}}
GROUPS = [
    EDGE,
    group(addresses=["192.0.2.1-192.0.2.2"], allowedStaticBackends=["10.0.0.0/8"]),
    group(addresses=["192.0.2.1-192.0.2.3"], allowedNamespaces=TEAMS),
    group("core", addresses=["192.0.2.3-192.0.2.9"], announcement="none", gatewayAddresses=["10.0.0.250"]),
]
LB2 = node("lb2", "10.0.0.2", pods=["10.1.4.0/24"], director=True)
WAYS: list[dict[str, Any]] = [{}, {"forwarding": "DR"}, {"forwarding": "TUN"}, {"nat": {"returnPath": "Gateway"}}]
PODS = ["10.1.1.5@lb1", "10.1.2.5@rs1", "10.1.2.6@rs1 no yes yes", "10.1.3.5@rs2", "10.9.9.9", "192.0.2.1"]
BALANCER = {"type": "LoadBalancer", "loadBalancerClass": "ipvs.dev/edge"}


def agent(name: str, ready: bool) -> Pod:
    value = {
        "metadata": {"name": f"agent-{name}", "namespace": "ipvs-system"},
        "spec": {"nodeName": name},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }
    return msgspec.convert(value, Pod)


def state(name: str, address: str, ready: str, boot: str) -> Node:
    value = {
        "metadata": {"name": name},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": ready}],
            "nodeInfo": {"bootID": boot},
        },
    }
    return msgspec.convert(value, Node)


STATIC = st.builds(
    lambda name, group_name, way, vips, port, rip: service(
        name, group=group_name, vips=vips, ports=[port], servers=[rip], **way
    ),
    st.sampled_from(["web", "other"]),
    st.sampled_from(["edge", "edge", "core"]),
    st.sampled_from(WAYS),
    st.sampled_from([[], ["192.0.2.3"]]),
    st.sampled_from(["80", "81"]),
    st.sampled_from(["10.0.0.11", "10.1.2.7", "10.9.9.9", "192.0.2.2"]),
)
FRONTING = st.builds(
    lambda name, way: fronting(name, vips=[], **way), st.sampled_from(["web", "api"]), st.sampled_from(WAYS)
)
SLICE = st.builds(
    lambda name, pods: slice_(name, pods),
    st.sampled_from(["web-1", "web-2"]),
    st.lists(st.sampled_from(PODS), unique=True, max_size=4),
)
OTHERS = st.sampled_from(
    [
        *GROUPS,
        LB2,
        node("lb2", "10.0.0.2"),
        state("rs1", "10.0.0.11", "True", "boot-1"),
        state("rs1", "10.0.0.11", "Unknown", "boot-1"),
        state("rs1", "10.0.0.11", "True", "boot-2"),
        core(),
        core(["http:80", "https:443"], families=["IPv4", "IPv6"]),
        core(name="lb", **BALANCER),
        core(name="lb"),
        space(),
        space(team="web"),
        agent("lb1", True),
        agent("lb1", False),
        agent("rs1", True),
    ]
)
REMOVED = st.sampled_from(
    [
        ("VirtualService", "web", "shop"),
        ("VirtualService", "other", "shop"),
        ("DirectorGroup", "edge"),
        ("Node", "rs2"),
        ("Node", "lb2"),
        ("Service", "web", "shop"),
        ("Service", "lb", "shop"),
        ("EndpointSlice", "web-1", "shop"),
        ("Namespace", "shop"),
        ("Pod", "agent-lb1", "ipvs-system"),
    ]
)
STEP = st.one_of(
    *([st.tuples(st.just("put"), STATIC)] * 2),
    *([st.tuples(st.just("put"), FRONTING)] * 2),
    *([st.tuples(st.just("put"), SLICE)] * 2),
    *([st.tuples(st.just("put"), OTHERS)] * 3),
    st.tuples(st.just("remove"), REMOVED),
    *([st.tuples(st.just("work"))] * 2),
    *([st.tuples(st.just("answer"))] * 2),
)
STEPS = st.lists(STEP, min_size=3, max_size=25)


def history(steps: list[Any]) -> ApiServer:
    """What a cluster's API server went through."""
    fleet = Fleet(EDGE, *BASE[1:], LB2, agent("lb1", True), agent("rs2", True), core(), slice_(endpoints=PODS[:2]))
    operator = Operator(fleet.server)
    for what, *values in steps:
        if what == "put":
            fleet.put(values[0])
        elif what == "work":
            operator.settle()
        elif what == "answer":
            fleet.answer()
        else:
            kind, name, *namespace = values[0]
            if ObjectKey(kind, *namespace or ("",), name) in fleet.server.objects:
                fleet.remove(kind, name, *namespace)
    return fleet.server


class Observer(Operator):
    """An operator that knows what it is told, and only thinks."""

    def __init__(self, judges_pods: bool) -> None:
        super().__init__(ApiServer())
        self.store = Store("ipvs-system", self._mark, judges_pods=judges_pods)

    def tell(self, entry: Entry) -> None:
        if entry.object is None:
            self.store.remove(entry.key, str(entry.version))
        else:
            self.store.put(entry.object)

    def relist(self, server: ApiServer, kinds: Iterable[str]) -> None:
        for kind in kinds:
            self.store.replace(kind, server.of(kind), str(server.version))

    def thoughts(self, items: Iterable[Item] = ()) -> dict[Item, Reconciliation]:
        """What there is to write for everything, and for ``items``."""
        return {item: self.work_out(item) for item in {*self.store.everything(), *items}}


def news(before: dict[Item, Reconciliation], after: dict[Item, Reconciliation]) -> set[Item]:
    """For which of them something is to be written now, and was not.

    Who had something to write already is not done before that is written or refused, and looks again then.
    """
    return {item for item, result in after.items() if result.writes and not before.get(item, Reconciliation()).writes}


def test_a_removal_that_is_told_twice_frees_nothing_that_is_still_programmed() -> None:
    one, rival = service("one", vips=["192.0.2.3"]), service("rival", vips=["192.0.2.3"])
    steps = [("put", one), ("work",), ("put", rival), ("remove", ("VirtualService", "one", "shop"))]
    observer = Observer(judges_pods=False)
    for entry in history(steps).log:
        observer.tell(entry)
    held = observer.store.snapshot.held(Key("shop", "one"))
    assert held.vips
    observer.dirty.clear()
    observer.tell(entry)
    assert observer.store.snapshot.held(Key("shop", "one")) == held
    assert not observer.dirty


KINDS = (
    *("VirtualService", "DirectorGroup", "Node", "Service", "EndpointSlice", "Namespace"),
    *("IPVSNode", "IPVSAddress", "VirtualServicePlan", "Pod"),
)


@pytest.mark.slow
@settings(HISTORIES)
@given(STEPS, st.booleans())
def test_whoever_has_something_else_to_do_after_news_is_marked(steps: list[Any], judges_pods: bool) -> None:
    observer = Observer(judges_pods)
    before = observer.thoughts()
    for entry in history(steps).log:
        observer.dirty.clear()
        observer.tell(entry)
        after = observer.thoughts(before)
        assert news(before, after) <= observer.dirty.keys(), f"{entry.key} at {entry.version}"
        before = after
        observer.dirty.clear()
        observer.tell(entry)
        assert not observer.dirty, "the same again is no news"


@pytest.mark.slow
@settings(HISTORIES)
@given(STEPS, st.booleans(), st.randoms(use_true_random=False), st.integers(1, 3), st.floats(0, 0.9))
def test_news_twice_late_and_lost_end_in_what_is(
    steps: list[Any], judges_pods: bool, chance: Any, times: int, lost: float
) -> None:
    """Each kind's watch loses some and is listed anew in the end, as is done after every break."""
    server = history(steps)
    told = [entry for entry in server.log if chance.random() >= lost] * times
    chance.shuffle(told)
    observer, fresh = Observer(judges_pods), Observer(judges_pods)
    for entry in told:
        observer.tell(entry)
    before = observer.thoughts()
    observer.dirty.clear()
    observer.relist(server, chance.sample(KINDS, len(KINDS)))
    fresh.relist(server, KINDS)
    assert observer.thoughts() == fresh.thoughts()
    after = observer.thoughts(before)
    assert news(before, after) <= observer.dirty.keys()
    for kind in KINDS:
        assert observer.store.known(kind) == {key for key in server.objects if key.kind == kind}


@pytest.mark.slow
@settings(HISTORIES)
@given(STEPS, st.randoms(use_true_random=False))
def test_news_in_any_order_need_no_list_where_none_are_lost(steps: list[Any], chance: Any) -> None:
    server = history(steps)
    told = list(server.log)
    chance.shuffle(told)
    observer, fresh = Observer(False), Observer(False)
    for entry in told:
        observer.tell(entry)
    fresh.relist(server, KINDS)
    assert observer.thoughts() == fresh.thoughts()


def test_a_status_that_another_wrote_is_put_right() -> None:
    fleet = Fleet(EDGE, *BASE[1:], LB2, core(), slice_(endpoints=PODS[:2]), fronting(vips=[]))
    operator = Operator(fleet.server)
    fleet.rest(operator)
    stored = fleet.server.objects[ObjectKey("VirtualService", "shop", "web")]
    meddled = stored.status.conditions[0], stored.status.conditions[2]
    fleet.server.carry_out(
        Write(
            Verb.STATUS,
            "VirtualService",
            stored.metadata,
            status=msgspec.structs.replace(stored.status, conditions=meddled),
        )
    )
    fleet.rest(operator)
    assert fleet.server.objects[ObjectKey("VirtualService", "shop", "web")].status == stored.status


def marks(*declared: Declared) -> tuple[Store, list[Item]]:
    found: list[Item] = []

    def mark(item: Item, *, bulk: bool = False) -> None:
        found.append(item)

    store = Store("ipvs-system", mark, judges_pods=False)
    for each in declared:
        store.put(each)
    found.clear()
    return store, found


def test_one_endpoint_concerns_one_virtual_service_and_nothing_else() -> None:
    fronts = [fronting(f"web-{number}", f"web-{number}", vips=[f"192.0.2.{number + 1}"]) for number in range(10)]
    store, found = marks(EDGE, *BASE[1:], *(core(name=f"web-{number}") for number in range(10)), *fronts)
    store.put(slice_("s", ["10.1.2.5@rs1"], of="web-7"))
    assert [str(item) for item in found] == ["VirtualService shop/web-7"]


def test_what_cannot_be_read_stays_as_it_was_known_and_is_not_taken_for_gone() -> None:
    store, found = marks(*BASE, service())
    key = ObjectKey("VirtualService", "shop", "web")
    store.pass_over(key, "9")
    assert store.version(key) == 9
    assert key in store.known("VirtualService")
    assert found == []
    stale = msgspec.structs.replace(
        service(), metadata=msgspec.structs.replace(service().metadata, resource_version="8")
    )
    store.put(stale)
    assert found == []
    assert not store.remove(key, "8")
    assert store.remove(key, "10")


def test_who_has_written_a_status_has_not_to_look_at_it_again_and_anybody_else_does() -> None:
    web = service()
    status = msgspec.structs.replace(web.status, observed_generation=1)
    written = msgspec.structs.replace(web, status=status)
    item = Item(Work.SERVICE, "shop", "web")
    store, found = marks(*BASE, web)
    store.put(written, by=item)
    assert item not in found
    store, found = marks(*BASE, web)
    store.put(written)
    assert item in found
