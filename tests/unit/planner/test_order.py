"""The order between nodes, as sequences: what nodes were told, what they say then, what they are told next."""

from collections.abc import Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from ipvs_api.plan import VirtualServicePlan, VirtualServicePlanSpec
from ipvs_planner.index import Key
from ipvs_planner.order import NOTHING_SAID, Word, merged, remembered, staged

from .worlds import BASE, compiled, group, node, service

LB2 = node("lb2", "10.0.0.2", pods=["10.1.4.0/24"], director=True)
HOSTS = ("10.0.0.11", "10.0.0.12")
PODS = ("10.1.2.5", "10.1.2.6", "10.1.3.5")
"""Two behind rs1, one behind rs2."""


def wanted(servers: Iterable[str] = HOSTS, forwarding: str = "DR", **spec: Any) -> VirtualServicePlanSpec:
    result = compiled(*BASE, LB2, group(), service(servers=servers, forwarding=forwarding, **spec))
    found = whole(result.plans)
    assert found is not None
    return found


def whole(plans: Iterable[VirtualServicePlan]) -> VirtualServicePlanSpec | None:
    """All slices together; in which of them a real server is, and where, is of no account."""
    found = merged(tuple(plans))
    if found is None:
        return None
    backends = [replace(each, servers=tuple(sorted(each.servers, key=str))) for each in found.backends]
    return replace(found, backends=tuple(sorted(backends, key=lambda each: (each.node, each.role))))


class Stored:
    """What is stored, and what each node has said of it: whoever is told something new has yet to answer."""

    def __init__(self) -> None:
        self.plans: tuple[VirtualServicePlan, ...] = ()
        self.words: dict[str, Word] = {}
        self.version = 0

    def tell(self, want: VirtualServicePlanSpec | None, writes: int | None = None) -> VirtualServicePlanSpec | None:
        """One step; of its writes the first so many, or all. What is stored then, put together."""
        there = {plan.metadata.name: plan for plan in self.plans}
        plans = staged(want, self.plans, {name: self.words.get(name, NOTHING_SAID) for name in self.labelled})
        changed = [plan for plan in plans if not same(plan, there.get(plan.metadata.name))]
        for plan in changed[:writes]:
            self.version += 1
            there[plan.metadata.name] = replace(
                plan, metadata=replace(plan.metadata, resource_version=str(self.version))
            )
            for name in names(plan):
                self.words[name] = self.words.get(name, NOTHING_SAID)._replace(reached=False)
        if writes is None:
            there = {plan.metadata.name: there[plan.metadata.name] for plan in plans}
        self.plans = tuple(there.values())
        return whole(self.plans)

    @property
    def labelled(self) -> set[str]:
        return {name for plan in self.plans for name in names(plan)}

    def say(self, *nodes: str, draining: Iterable[str] = (), **said: bool) -> None:
        """They have all that they were told, and ``said``. ``draining``: to which real servers connections go on."""
        left = set(draining)
        for name in nodes:
            self.words[name] = Word(**{"reached": True} | said, draining=lambda addresses: bool(left & set(addresses)))

    def all_say(self) -> None:
        self.say(*self.labelled)

    def rest(self, want: VirtualServicePlanSpec | None) -> VirtualServicePlanSpec | None:
        """Everybody does at once what it is told, until nothing is told any more."""
        for _ in range(10):
            before = self.plans
            self.all_say()
            found = self.tell(want)
            if self.plans == before:
                return found
        raise AssertionError("never settles")


def same(plan: VirtualServicePlan, before: VirtualServicePlan | None) -> bool:
    return before is not None and (plan.spec, plan.metadata.labels) == (before.spec, before.metadata.labels)


def names(plan: VirtualServicePlan) -> set[str]:
    return {label.partition("/")[2] for label in plan.metadata.labels}


def directed(spec: VirtualServicePlanSpec | None) -> dict[str, bool]:
    """By node: directors send to it."""
    return {backend.node: backend.directed for backend in spec.backends} if spec is not None else {}


def started(want: VirtualServicePlanSpec) -> Stored:
    stored = Stored()
    assert stored.rest(want) == want
    return stored


@pytest.mark.parametrize("forwarding", ["DR", "TUN"])
@pytest.mark.parametrize("servers", [HOSTS, PODS])
def test_a_node_is_sent_traffic_once_it_has_reported_its_role(forwarding: str, servers: tuple[str, ...]) -> None:
    want, stored = wanted(servers, forwarding), Stored()
    assert directed(stored.tell(want)) == {"rs1": False, "rs2": False}
    assert stored.labelled == {"lb1", "lb2", "rs1", "rs2"}, "directors prepare as well"
    stored.say("lb1", "lb2", "rs1")
    assert directed(stored.tell(want)) == {"rs1": True, "rs2": False}
    stored.say("rs2", failing=True)
    assert directed(stored.tell(want)) == {"rs1": True, "rs2": False}
    stored.say("rs2")
    assert stored.tell(want) == want


def test_without_roles_everybody_is_sent_traffic_at_once() -> None:
    for nat in (wanted(forwarding="NAT"), wanted(["10.9.9.8", "10.9.9.9"])):
        assert Stored().tell(nat) == nat


def test_a_node_keeps_its_role_until_no_director_has_a_connection_to_it_any_more() -> None:
    stored, less = started(wanted()), wanted(HOSTS[:1])
    assert directed(stored.tell(less)) == {"rs1": True, "rs2": False}
    before = stored.plans
    stored.say("rs1", "rs2", "lb1")
    stored.tell(less)
    assert stored.plans == before, "lb2 has not heard of it yet"
    stored.say("lb2", draining=["10.0.0.12"], leaving=True)
    stored.tell(less)
    assert stored.plans == before, "lb2 has connections"
    stored.say("lb2", draining=["10.0.0.11"])
    assert stored.tell(less) == less
    assert "rs2" in stored.labelled, "it is told that its role is gone"
    stored.say("rs1", "rs2", "lb1", "lb2", leaving=True)
    stored.tell(less)
    assert "rs2" in stored.labelled, "it has something left"
    stored.all_say()
    stored.tell(less)
    assert stored.labelled == {"lb1", "lb2", "rs1"}


def test_connections_to_a_second_hop_are_to_its_node() -> None:
    stored, less = started(wanted(PODS)), wanted(PODS[:2])
    stored.tell(less)
    stored.say("lb1", "lb2", "rs1", "rs2")
    stored.say("lb2", draining=["10.0.0.12"])
    assert directed(stored.tell(less)) == {"rs1": True, "rs2": False}
    stored.say("lb2")
    assert directed(stored.tell(less)) == {"rs1": True}


def test_a_director_that_is_none_any_more_still_counts_while_it_drains() -> None:
    """It was taken out of the group, and holds connections to what is taken out next."""
    stored = started(wanted())
    alone = replace(wanted(HOSTS[:1]), directors=wanted().directors[:1])
    stored.tell(alone)
    stored.say("lb1", "rs1", "rs2")
    assert directed(stored.tell(alone)) == {"rs1": True, "rs2": False}, "lb2 has not heard that it directs no more"
    stored.say("lb2", draining=["10.0.0.12"], leaving=True)
    assert directed(stored.tell(alone)) == {"rs1": True, "rs2": False}
    stored.say("lb2")
    assert directed(stored.tell(alone)) == {"rs1": True}
    withdrawn = started(wanted())
    withdrawn.tell(replace(wanted(), directors=wanted().directors[:1]))
    withdrawn.all_say()
    withdrawn.say("lb2", draining=HOSTS, leaving=True)
    withdrawn.tell(None)
    withdrawn.say("lb1", "rs1", "rs2")
    withdrawn.say("lb2", draining=HOSTS, leaving=True)
    assert directed(withdrawn.tell(None)) == {"rs1": False, "rs2": False}
    withdrawn.say("lb2")
    assert directed(withdrawn.tell(None)) == {}


@pytest.mark.parametrize("silent", ["lb1", "lb2"])
def test_a_silent_director_is_waited_for_until_it_is_forgotten(silent: str) -> None:
    stored, less = started(wanted()), wanted(HOSTS[:1])
    stored.tell(less)
    stored.all_say()
    stored.say(silent, reached=False, silent=True)
    assert directed(stored.tell(less)) == {"rs1": True, "rs2": False}
    stored.say(silent, reached=False, silent=True, forgotten=True)
    assert stored.tell(less) == less


def test_a_silent_real_server_keeps_nobody_waiting() -> None:
    stored, less = started(wanted([*HOSTS, "10.1.4.5"])), wanted(["10.0.0.11", "10.1.4.5"])
    stored.tell(less)
    stored.all_say()
    stored.say("rs1", reached=False, silent=True)
    assert directed(stored.tell(less)) == {"lb2": True, "rs1": True}


CHANGES = [(old, new) for old in ("NAT", "DR", "TUN") for new in ("NAT", "DR", "TUN") if old != new]


@pytest.mark.parametrize(("old", "new"), CHANGES)
@pytest.mark.parametrize("servers", [HOSTS, PODS])
def test_real_servers_learn_a_new_forwarding_before_directors_use_it(
    old: str, new: str, servers: tuple[str, ...]
) -> None:
    stored, want = started(wanted(servers, old)), wanted(servers, new)
    first = stored.tell(want)
    assert first is not None
    if new == "NAT":
        assert first == want, "NAT needs nothing of real servers"
        return
    assert first.forwarding == old
    assert first.prepare is not None
    assert first.prepare.forwarding == new
    assert directed(first) == {"rs1": True, "rs2": True}, "meanwhile all serve as before"
    stored.say("lb1", "lb2", "rs1")
    assert stored.tell(want) == first, "rs2 has not learnt it"
    stored.say("rs2", failing=True)
    assert stored.tell(want) == first, "rs2 cannot do it"
    stored.say("rs2")
    assert stored.tell(want) == want


@pytest.mark.parametrize("old", ["NAT", "DR"])
def test_a_change_of_forwarding_does_not_wait_for_who_is_silent_and_does_not_send_to_him(old: str) -> None:
    """Under NAT a node serves without anything of ours, so one without a living agent is no rare thing."""
    stored, want = started(wanted(forwarding=old)), wanted(forwarding="TUN")
    stored.tell(want)
    stored.say("lb1", "lb2", "rs1")
    stored.say("rs2", reached=False, silent=True)
    changed = stored.tell(want)
    assert changed is not None
    assert (changed.forwarding, changed.prepare) == ("TUN", None)
    assert directed(changed) == {"rs1": True, "rs2": False}
    assert stored.rest(want) == want


def test_a_node_that_comes_while_forwarding_changes_learns_both_and_is_waited_for() -> None:
    stored, want = started(wanted(HOSTS[:1])), wanted(HOSTS, "TUN")
    first = stored.tell(want)
    assert directed(first) == {"rs1": True, "rs2": False}
    stored.say("lb1", "lb2", "rs1")
    stored.tell(want)
    assert stored.plans[0].spec.forwarding == "DR"
    stored.say("rs2")
    last = stored.tell(want)
    assert last is not None
    assert (last.forwarding, last.prepare) == ("TUN", None)
    assert stored.rest(want) == want


def test_a_change_of_mind_while_forwarding_changes_goes_back_to_where_it_was() -> None:
    stored, before = started(wanted()), wanted()
    stored.tell(wanted(forwarding="TUN"))
    stored.all_say()
    assert stored.tell(before) == before
    stored.tell(wanted(forwarding="TUN"))
    third = stored.tell(wanted(forwarding="TUN", tunnel={"type": "GUE", "port": 6080}))
    assert third is not None
    assert third.forwarding == "DR"
    assert third.prepare is not None
    assert third.prepare.tunnel.port == 6080
    stored.say("lb1", "lb2")
    assert stored.tell(wanted(forwarding="TUN")) != wanted(forwarding="TUN"), "what is prepared is another tunnel"


def test_where_the_old_way_cannot_serve_nobody_is_sent_traffic_until_it_can_take_the_new_one() -> None:
    """One packet at a time is nothing for NAT; and ports that a host cannot map are nothing for DR."""
    nat = started(wanted(ports=["53/UDP"], forwarding="NAT"))
    want = wanted(ports=["53/UDP"], forwarding="TUN", onePacket=True)
    assert directed(nat.tell(want)) == {"rs1": False, "rs2": False}
    nat.say("lb1", "lb2", "rs2")
    assert directed(nat.tell(want)) == {"rs1": False, "rs2": True}
    assert nat.rest(want) == want


def test_what_was_withdrawn_and_comes_back_another_way_starts_anew() -> None:
    stored, want = started(wanted()), wanted(forwarding="TUN")
    stored.tell(None)
    stored.say("rs1", "rs2")
    again = stored.tell(want)
    assert again is not None
    assert (again.forwarding, again.withdrawn) == ("TUN", False)
    assert directed(again) == {"rs1": False, "rs2": False}, "what they have is the role for direct routing"
    assert stored.rest(want) == want


def flows(spec: VirtualServicePlanSpec | None) -> dict[str, bool]:
    """By address and port: directors serve it."""
    assert spec is not None
    ports = {str(each.port): each.directed for each in spec.ports}
    return {each.address: each.directed for each in spec.addresses} | ports


TWO_PORTS = ["80", "81"]


@pytest.mark.parametrize("servers", [HOSTS, PODS])
def test_a_new_port_is_served_once_all_that_are_sent_traffic_have_reported_it(servers: tuple[str, ...]) -> None:
    stored, want = started(wanted(servers)), wanted(servers, ports=TWO_PORTS)
    assert flows(stored.tell(want)) == {"192.0.2.10": True, "80": True, "81": False}
    stored.say("lb1", "lb2", "rs1")
    assert flows(stored.tell(want))["81"] is False, "rs2 has not got it"
    stored.say("rs2")
    assert stored.tell(want) == want
    assert stored.rest(want) == want


def test_a_new_address_is_served_once_real_servers_have_it() -> None:
    stored, want = started(wanted()), wanted(addresses=["192.0.2.11"])
    assert flows(stored.tell(want)) == {"192.0.2.11": False, "80": True}
    assert directed(whole(stored.plans)) == {"rs1": True, "rs2": True}
    assert stored.rest(want) == want


def test_a_new_port_does_not_wait_for_who_is_silent_or_cannot() -> None:
    stored, want = started(wanted()), wanted(ports=TWO_PORTS)
    stored.tell(want)
    stored.words["rs1"] = Word(silent=True)
    stored.say("rs2", failing=True)
    assert stored.tell(want) == want


def test_without_roles_a_new_port_is_served_at_once() -> None:
    stored, want = started(wanted(forwarding="NAT")), wanted(forwarding="NAT", ports=TWO_PORTS)
    assert stored.tell(want) == want


def test_what_was_withdrawn_and_comes_back_goes_on() -> None:
    stored, want = started(wanted()), wanted()
    stored.tell(None)
    stored.say("lb1", "lb2", "rs1")
    assert directed(stored.tell(want)) == {"rs1": True, "rs2": False}
    assert stored.rest(want) == want


@pytest.mark.parametrize("servers", [HOSTS, PODS])
def test_withdrawal_frees_directors_then_real_servers_then_the_plan_goes(servers: tuple[str, ...]) -> None:
    stored = started(wanted(servers))
    first = stored.tell(None)
    assert first is not None
    assert first.withdrawn
    assert directed(first) == {"rs1": False, "rs2": False}
    stored.say("lb1", "rs1", "rs2")
    stored.say("lb2", leaving=True, draining=servers)
    assert stored.tell(None) == first, "lb2 has connections"
    stored.say("lb2")
    second = stored.tell(None)
    assert second is not None
    assert second.backends == ()
    assert stored.labelled == {"lb1", "lb2", "rs1", "rs2"}
    stored.say("lb1", "lb2", "rs1")
    stored.say("rs2", leaving=True)
    assert stored.tell(None) == second, "rs2 has something left"
    stored.say("rs2")
    assert stored.tell(None) is None


def test_withdrawal_of_what_has_no_roles_is_two_steps() -> None:
    stored = started(wanted(forwarding="NAT"))
    first = stored.tell(None)
    assert first is not None
    assert (first.withdrawn, first.backends) == (True, ())
    stored.say("lb1")
    assert stored.tell(None) == first
    stored.say("lb2")
    assert stored.tell(None) is None


def test_a_node_that_will_not_come_back_holds_nothing_up() -> None:
    stored = started(wanted())
    for name in ("lb2", "rs2"):
        stored.say(name, reached=False, silent=True, forgotten=True)
    for _ in range(3):
        stored.tell(None)
        stored.say("lb1", "rs1")
    assert stored.plans == ()


def test_what_only_claims_remember_is_withdrawn_from_those_that_may_have_it() -> None:
    (plan,) = remembered(Key("shop", "web"), ["192.0.2.10"], "edge", ["lb1", "rs1"], "ipvs-system")
    assert names(plan) == {"lb1", "rs1"}
    assert plan.spec.withdrawn
    assert (plan.metadata.namespace, plan.metadata.name) == ("ipvs-system", "shop.web.0")
    stored = Stored()
    stored.plans = (plan,)
    stored.say("lb1")
    assert stored.tell(None) is not None
    stored.say("rs1")
    assert stored.tell(None) is None


def test_holders_are_told_with_the_first_plan() -> None:
    plans = staged(wanted(HOSTS[:1]), (), {}, holders=["rs9"])
    assert names(plans[0]) == {"lb1", "lb2", "rs1", "rs9"}


MANY = tuple(f"10.1.{net}.{host}" for net, count in ((2, 250), (3, 50), (4, 250)) for host in range(count))
"""250 behind lb2 and 250 behind rs1, which are one slice; 50 behind rs2, which are another."""


def places(stored: Stored) -> dict[str, int]:
    return {
        server.address: plan.spec.slice
        for plan in stored.plans
        for backend in plan.spec.backends
        for server in backend.servers
    }


def test_real_servers_stay_in_their_slice_so_that_one_that_changes_rewrites_one() -> None:
    stored = started(wanted(MANY))
    before, old = places(stored), stored.plans
    assert len(old) == 2
    gone = next(address for address, number in before.items() if number == 0)
    one_less = wanted([address for address in MANY if address != gone])
    stored.tell(one_less)
    assert places(stored) == {address: number for address, number in before.items() if address != gone}
    assert stored.plans[1] == old[1]
    stored.tell(wanted(MANY))
    assert places(stored) == before, "it fills the gap"
    assert stored.plans[1] == old[1]


def test_slices_are_cut_anew_when_half_of_them_would_do() -> None:
    stored = started(wanted(MANY))
    few = wanted(MANY[:3])
    stored.rest(few)
    assert [plan.metadata.name for plan in stored.plans] == ["shop.web.0"]


def test_nobody_moves_on_while_slices_say_different_things() -> None:
    """Of two slices one was written when the operator died. rs2 has what the other one says since long."""
    stored, want = started(wanted(MANY)), wanted(MANY, "TUN")
    assert "rs2" not in names(stored.plans[0])
    stored.tell(want, writes=1)
    stored.say(*names(stored.plans[0]))
    again = stored.tell(want)
    assert again is not None
    assert again.forwarding == "DR"
    assert all(plan.spec.prepare is not None for plan in stored.plans)
    assert stored.rest(want) == want
    stored.tell(None, writes=1)
    stored.all_say()
    last = stored.tell(None)
    assert all(plan.spec.withdrawn for plan in stored.plans)
    assert directed(last) == {"lb2": False, "rs1": False, "rs2": False}, "and all keep their roles"


def taking(spec: VirtualServicePlanSpec, *addresses: str) -> VirtualServicePlanSpec:
    """``spec``, of whose real servers these alone take new connections."""
    backends = [
        replace(each, servers=tuple(replace(one, weight=int(one.address in addresses)) for one in each.servers))
        for each in spec.backends
    ]
    return replace(spec, backends=tuple(backends))


@pytest.mark.parametrize("forwarding", ["DR", "TUN"])
def test_a_node_whose_pods_all_ended_is_sent_to_its_new_ones_once_its_second_hop_has_them(forwarding: str) -> None:
    """rs2's only pod ends, and another one is ready while the first is still there."""
    old, new = wanted(PODS, forwarding), wanted((*PODS, "10.1.3.6"), forwarding)
    stored = started(old)
    ending = taking(old, "10.1.2.5", "10.1.2.6")
    assert directed(stored.rest(ending)) == {"rs1": True, "rs2": True}
    other = taking(new, "10.1.2.5", "10.1.2.6", "10.1.3.6")
    assert directed(stored.tell(other)) == {"rs1": True, "rs2": False}
    assert directed(stored.tell(other)) == {"rs1": True, "rs2": False}, "it has not said that it has it"
    stored.say("rs2")
    assert directed(stored.tell(other)) == {"rs1": True, "rs2": True}


@pytest.mark.parametrize("forwarding", ["DR", "TUN"])
def test_a_node_with_pods_that_go_on_is_sent_to_all_the_time(forwarding: str) -> None:
    """Its second hop sends to the ones that it knows."""
    stored = started(wanted(PODS, forwarding))
    more = taking(wanted((*PODS, "10.1.2.7"), forwarding), "10.1.2.6", "10.1.2.7", "10.1.3.5")
    assert directed(stored.tell(more)) == {"rs1": True, "rs2": True}


def test_hosts_with_the_address_are_sent_to_whatever_weight_they_had() -> None:
    stored = started(wanted(HOSTS))
    stored.rest(taking(wanted(HOSTS), "10.0.0.11"))
    assert directed(stored.tell(wanted(HOSTS))) == {"rs1": True, "rs2": True}
