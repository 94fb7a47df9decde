"""What holds of claims in any world, however many operators there are and however late they hear."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipvs_api.virtualservice import VirtualService
from ipvs_planner.assign import orphans
from ipvs_planner.claims import claims_of
from ipvs_planner.compile import compile_virtual_service
from ipvs_planner.compiled import Outcome
from ipvs_planner.index import Key
from ipvs_planner.packed import address_of, text_of
from ipvs_planner.reasons import Reason
from ipvs_planner.snapshot import Declared

from .claim_server import ClaimServer, Operator, restarted
from .strategies import FIRST, GROUP, GROUPS, LATER, NAMES, NAMESPACES, NODE, NOW, REMOVAL, SERVICE, Step
from .worlds import BASE, group, node, service

WORLDS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def unasked(declared: VirtualService, count: int) -> VirtualService:
    spec = msgspec.structs.replace(declared.spec, addresses=(), address_count=count)
    return msgspec.structs.replace(declared, spec=spec)


ANY_SERVICE = st.one_of(SERVICE, st.builds(unasked, SERVICE, st.sampled_from([1, 1, 1, 2, 3])))
TIGHT = st.builds(
    lambda name, addresses: group(
        name, addresses, allowedStaticBackends=["10.0.0.0/8", "::/0"], gatewayAddresses=["10.0.0.251"]
    ),
    GROUPS,
    st.sampled_from([["192.0.2.0/30"], ["192.0.2.1", "2001:db8::1"], ["192.0.2.2-192.0.2.4", "2001:db8::/126"]]),
)
STEP = st.one_of(
    *([st.tuples(st.just("put"), ANY_SERVICE)] * 5),
    st.tuples(st.just("put"), GROUP),
    st.tuples(st.just("put"), TIGHT),
    st.tuples(st.just("put"), NODE),
    st.tuples(st.just("remove"), REMOVAL),
    st.tuples(st.just("remove"), REMOVAL),
)
STEPS = st.lists(STEP, min_size=1, max_size=16).map(lambda steps: [*FIRST, *steps])


def do(operator: Operator, step: Step) -> None:
    what, value = step
    if what == "put":
        operator.put(value)
    else:
        operator.remove(value[0], value[2], value[1])


def check(operator: Operator) -> None:
    """At rest: claims, plans and what is asked for fit together, and nobody was forgotten."""
    snapshot, server = operator.snapshot, operator.server
    assert {key: compile_virtual_service(snapshot, key) for key in operator.results} == operator.results
    assert set(operator.results) == set(snapshot.keys())
    owned: dict[str, set[Key]] = {
        each.spec.address: {Key(each.spec.namespace, owner.name) for owner in each.spec.owners}
        for each in server.objects.values()
    }
    vips: dict[bytes, Key] = {}
    for key in operator.results:
        for vip in snapshot.held(key).vips:
            assert vips.setdefault(vip, key) == key
            if operator.results[key].outcome is Outcome.PLANNED:
                assert key in owned[text_of(address_of(vip))]
    for key, result in operator.results.items():
        assert not result.claiming
        if result.outcome is Outcome.PLANNED:
            assert claims_of(result.plans) == result.claims
            spec = server.objects
            holders = {node for plan in result.plans for node in directors_and_nodes(plan)}
            for entry in result.plans[0].spec.addresses:
                (claim,) = (each for each in spec.values() if each.spec.address == entry.address)
                assert (claim.spec.namespace, claim.spec.director_group) == (key.namespace, result.claims.group)
                assert holders <= set(claim.spec.holders)
        if Reason.ADDRESSES_EXHAUSTED in {finding.reason for finding in result.refusals}:
            assert snapshot.addresses.choose(key) is None
    assert orphans(snapshot) == set()
    for keys in owned.values():
        for key in keys:
            assert snapshot.facts(key) is not None


def directors_and_nodes(plan: Any) -> set[str]:
    return {label.split("/")[1] for label in plan.metadata.labels}


@pytest.mark.slow
@settings(WORLDS)
@given(STEPS, st.booleans())
def test_an_operator_that_follows_the_answers_comes_to_rest_and_a_new_one_finds_it_so(
    steps: list[Step], trusted: bool
) -> None:
    operator = Operator(ClaimServer(), trusted=trusted)
    there: dict[tuple[str, str, str], Declared] = {}
    for what, value in steps:
        do(operator, (what, value))
        operator.settle()
        check(operator)
        if what == "put":
            there[type(value).__name__, value.metadata.namespace, value.metadata.name] = value
        else:
            there.pop(value, None)
    planned = {key: result for key, result in operator.results.items() if result.outcome is Outcome.PLANNED}
    again = restarted(operator, *there.values())
    assert {key: result for key, result in again.results.items() if key in planned} == planned
    assert again.writes == 0 or len(planned) < len(operator.results)


@pytest.mark.slow
@settings(WORLDS)
@given(STEPS)
def test_somebody_waits_only_while_there_is_not_enough_for_him(steps: list[Step]) -> None:
    operator = Operator(ClaimServer())
    for step in steps:
        do(operator, step)
    operator.settle()
    pool = operator.snapshot.addresses
    for key, result in operator.results.items():
        if {finding.reason for finding in result.refusals} == {Reason.ADDRESSES_EXHAUSTED}:
            facts = operator.snapshot.facts(key)
            assert facts is not None
            needs = pool.wanted(key)
            free = {
                family: len([each for each in candidates(operator, facts.owner.group, family) if not pool._taken(each)])
                for family in (4, 16)
            }
            have = [len(each) for each in pool.mine(key)]
            assert any(number - have.count(family) > free[family] for family, number in needs.families())


def candidates(operator: Operator, name: str, family: int) -> list[bytes]:
    return [
        value.to_bytes(family, "big")
        for span in operator.snapshot.groups[name].givable
        if (span.version == 6) == (family == 16)
        for value in range(span.first, min(span.last, span.first + 300) + 1)
    ]


SIMPLE = st.builds(
    lambda name, namespace, created, vips, ports, count: service(
        name, namespace=namespace, created=created, vips=vips, ports=ports, addressCount=1 if vips else count
    ),
    NAMES,
    NAMESPACES,
    st.sampled_from(["", NOW, LATER]),
    st.sampled_from([[], [], [], ["192.0.2.1"], ["192.0.2.2"]]),
    st.sampled_from([["80"], ["81"], ["80", "82"]]),
    st.sampled_from([1, 1, 2]),
)
WORLD = (
    group(addresses=["192.0.2.1-192.0.2.3"]),
    group("core", addresses=["192.0.2.2-192.0.2.4"]),
    *BASE[1:],
    node("lb2", "10.0.0.2", director=True),
)
DISAGREEMENT = st.one_of(
    *([st.tuples(st.just("put"), SIMPLE)] * 2),
    st.tuples(st.just("remove"), st.tuples(st.just("VirtualService"), NAMESPACES, NAMES)),
    *([st.tuples(st.just("learn"), st.integers(0, 1), st.integers(1, 3))] * 2),
    st.tuples(st.just("hear"), st.integers(0, 1), st.integers(1, 3)),
    *([st.tuples(st.just("work"), st.integers(0, 1), st.integers(0, 5))] * 4),
    st.tuples(st.just("restart"), st.integers(0, 1)),
)


class Two:
    """Two operators over one server, each of which hears of what is declared and of claims when it is told to."""

    def __init__(self) -> None:
        self.server = ClaimServer()
        self.declared: list[Step] = []
        self.operators = [Operator(self.server, *WORLD) for _ in range(2)]
        self.learnt = [0, 0]

    def learn(self, number: int, count: int) -> None:
        until = min(self.learnt[number] + count, len(self.declared))
        for step in self.declared[self.learnt[number] : until]:
            do(self.operators[number], step)
        self.learnt[number] = until

    def restart(self, number: int) -> None:
        self.operators[number] = Operator(self.server, *WORLD)
        self.learnt[number] = 0
        self.learn(number, len(self.declared))
        self.operators[number].hear()
        self.operators[number].dirty |= {*self.operators[number].snapshot.keys()}
        self.operators[number].dirty |= orphans(self.operators[number].snapshot)

    def step(self, what: str, *values: Any) -> None:
        if what in ("put", "remove"):
            self.declared.append((what, values[0]))
        elif what == "learn":
            self.learn(*values)
        elif what == "hear":
            self.operators[values[0]].hear(values[1])
        elif what == "restart":
            self.restart(values[0])
        else:
            operator = self.operators[values[0]]
            keys = sorted(operator.dirty)
            if keys:
                operator.work(keys[values[1] % len(keys)])

    def agree(self) -> None:
        """Everything is told to both, and both do what they think is to be done, in turn."""
        for _ in range(20):
            before = len(self.server.log)
            for number, operator in enumerate(self.operators):
                self.learn(number, len(self.declared))
                operator.hear()
                operator.settle()
            if len(self.server.log) == before:
                return
        raise AssertionError("two operators never agree")


@pytest.mark.slow
@settings(WORLDS, max_examples=80)
@given(st.lists(DISAGREEMENT, min_size=5, max_size=50))
def test_two_operators_that_hear_late_never_give_one_address_to_two_and_come_to_agree(steps: list[Any]) -> None:
    two = Two()
    for step in steps:
        two.step(*step)
        for claim in two.server.objects.values():
            assert claim.metadata.name == claim.spec.address
            assert claim.spec.owners
    two.agree()
    first, second = two.operators
    for operator in two.operators:
        check(operator)
    assert first.outcomes() == second.outcomes()
    fresh = Operator(two.server, *WORLD)
    for step in two.declared:
        do(fresh, step)
    fresh.start()
    assert fresh.outcomes() == first.outcomes()
    assert fresh.writes == 0
