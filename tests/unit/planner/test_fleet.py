"""However declarations, operators' writes and nodes' reports interleave: nobody is sent traffic that he cannot take,
nobody loses a connection to the order of things, no address has two owners, and all come to rest in the same place.

The first two are looked at by the nodes themselves (``Fleet.check_role``, ``Fleet.check_let_go``).
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipvs_api.meta import ObjectKey

from .backed import core, fronting, slice_
from .fleet import Fleet, Operator
from .worlds import BASE, group, node, service

FLEETS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

EDGE = group(addresses=["192.0.2.1-192.0.2.3"], allowedStaticBackends=["10.0.0.0/8"])
CORE = group("core", addresses=["192.0.2.2-192.0.2.4"], allowedStaticBackends=["10.0.0.0/8"])
LB2 = node("lb2", "10.0.0.2", pods=["10.1.4.0/24"], director=True)
NO_DIRECTOR = node("lb2", "10.0.0.2", pods=["10.1.4.0/24"])
WORLD = (EDGE, CORE, *BASE[1:], LB2, core(), slice_(endpoints=["10.1.1.5@lb1", "10.1.2.5@rs1"]))

WAYS: list[dict[str, Any]] = [
    {},
    {"forwarding": "DR"},
    {"forwarding": "DR"},
    {"forwarding": "TUN"},
    {"forwarding": "TUN", "tunnel": {"type": "GUE", "port": 6080}},
    {"nat": {"returnPath": "Gateway"}},
]
PODS = ["10.1.1.5@lb1", "10.1.2.5@rs1", "10.1.2.6@rs1", "10.1.3.5@rs2", "10.1.4.5@lb2"]
SERVERS = [["10.0.0.11"], ["10.0.0.11", "10.0.0.12"], ["10.0.0.12", "10.1.2.7"], ["10.0.0.2", "10.0.0.12"]]
STATIC = st.builds(
    lambda name, way, servers, vips: service(
        name, ports=["80" if name == "web" else "81"], servers=servers, vips=vips, **way
    ),
    st.sampled_from(["web", "other"]),
    st.sampled_from(WAYS),
    st.sampled_from(SERVERS),
    st.sampled_from([[], [], ["192.0.2.2"]]),
)
FRONTING = st.builds(lambda way: fronting(vips=[], **way), st.sampled_from(WAYS))
SLICE = st.builds(
    lambda pods: slice_(endpoints=pods), st.lists(st.sampled_from(PODS), unique=True, min_size=1, max_size=5)
)
NODES = st.sampled_from([node("rs2", "10.0.0.12", pods=["10.1.3.0/24"]), NO_DIRECTOR, LB2])
CHANGE = st.one_of(
    *([st.tuples(st.just("put"), STATIC)] * 3),
    *([st.tuples(st.just("put"), FRONTING)] * 3),
    *([st.tuples(st.just("put"), SLICE)] * 3),
    st.tuples(st.just("put"), NODES),
    st.tuples(
        st.just("remove"),
        st.sampled_from([("VirtualService", "web", "shop"), ("VirtualService", "other", "shop"), ("Node", "rs2")]),
    ),
)
AGENT = st.sampled_from(["lb1", "lb2", "rs1", "rs2"])
STEP = st.one_of(
    CHANGE,
    *([st.tuples(st.just("work"), st.integers(0, 1), st.integers(0, 9))] * 3),
    st.tuples(st.just("settle"), st.integers(0, 1)),
    st.tuples(st.just("hear"), st.integers(0, 1), st.integers(1, 6)),
    st.tuples(st.just("restart"), st.integers(0, 1)),
    *([st.tuples(st.sampled_from(["learn", "report", "drain"]), AGENT)] * 3),
    st.tuples(st.just("answer")),
)
SERVED = ("True Programmed", "False NoRealServers")
STEPS = st.lists(STEP, min_size=5, max_size=40)


class Cluster:
    """One operator, or two that hear late and take turns."""

    def __init__(self, operators: int) -> None:
        self.fleet = Fleet(*WORLD)
        self.operators = [Operator(self.fleet.server) for _ in range(operators)]
        self.fleet.rest(*self.operators)
        self.fleet.put(service(vips=[], forwarding="DR"))
        self.fleet.rest(*self.operators)

    def step(self, what: str, *values: Any) -> None:
        fleet = self.fleet
        number = values[0] % len(self.operators) if values and isinstance(values[0], int) else 0
        if what == "put":
            fleet.put(values[0])
        elif what == "remove":
            kind, name, *namespace = values[0]
            if ObjectKey(kind, *namespace or ("",), name) in fleet.server.objects:
                fleet.remove(kind, name, *namespace)
        elif what == "answer":
            fleet.answer()
        elif what in ("learn", "report", "drain"):
            if values[0] in fleet.agents:
                getattr(fleet.agents[values[0]], what)()
        elif what == "restart":
            self.operators[number] = Operator(fleet.server)
        else:
            self.work(self.operators[number], what, *values[1:])

    def work(self, operator: Operator, what: str, count: int = 0) -> None:
        if what == "hear":
            operator.hear(count)
        elif what == "settle":
            operator.settle()
        elif operator.dirty:
            operator.work(list(operator.dirty)[count % len(operator.dirty)])

    def check(self) -> None:
        """One namespace and group has an address, and one virtual service each port of it, in claims and in plans."""
        server = self.fleet.server
        claims = {each.spec.address: each.spec for each in server.of("IPVSAddress")}
        owners: dict[tuple[str, int], str] = {}
        for spec in (plan.spec for plan in server.of("VirtualServicePlan") if not plan.spec.withdrawn):
            name = spec.virtual_service.name
            for entry in spec.addresses:
                claim = claims[entry.address]
                assert name in {owner.name for owner in claim.owners}
                assert claim.director_group == spec.director_group
                assert {director.node for director in spec.directors} <= set(claim.holders)
                for port in spec.ports:
                    assert owners.setdefault((entry.address, port.port), name) == name

    def end(self) -> None:
        """All come to rest; a new operator finds nothing to do; what is served is what is wanted."""
        self.fleet.rest(*self.operators)
        self.check()
        written = self.fleet.server.written
        Operator(self.fleet.server).settle()
        assert self.fleet.server.written == written
        stored = {plan.spec.virtual_service.name for plan in self.fleet.server.of("VirtualServicePlan")}
        ready = self.fleet.ready()
        assert stored <= ready.keys()
        assert {name for name, words in ready.items() if words in SERVED} == stored
        for agent in self.fleet.agents.values():
            assert {key.name for key in agent.plans} <= stored


@pytest.mark.slow
@settings(FLEETS)
@given(STEPS)
def test_nobody_is_told_anything_too_early_or_too_late(steps: list[Any]) -> None:
    cluster = Cluster(1)
    for step in steps:
        cluster.step(*step)
        cluster.check()
    cluster.end()


@pytest.mark.slow
@settings(FLEETS)
@given(STEPS)
def test_two_operators_that_hear_late_and_take_turns_do_no_harm_and_settle(steps: list[Any]) -> None:
    cluster = Cluster(2)
    for step in steps:
        cluster.step(*step)
        cluster.check()
    cluster.end()
