"""What is wanted, as a sequence of plans: what each change adds, leaves behind and lets go, across restarts too."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.unit.agent.plans import VIP, context, hosts, plan, real_server

from ipvs_agent.intent import Intent
from ipvs_agent.rows import VIP_LINK, AddressKey, NftKey, RouteKey
from ipvs_agent.services import HEAD_SIZE, pack_key
from ipvs_agent.store import Store
from ipvs_api.plan import PlanAddress, PlanDirector, PlanPort
from ipvs_api.virtualservice import Forwarding, Protocol

WEB = pack_key("TCP", VIP, 80)
ON_LAN = AddressKey("eth0", VIP)
ON_DUMMY = AddressKey(VIP_LINK, VIP)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state.db")


def wanted(intent: Intent, table: str) -> set[object]:
    return set(intent.wanted(table))


def test_a_removed_service_keeps_its_address_until_it_has_drained(store: Store) -> None:
    intent = Intent(store, context(), 0.0)
    intent.apply({"default/web": plan()}, 10.0)
    dirty = intent.apply({"default/web": None}, 20.0)
    assert dirty["ipvs"] == {WEB}
    assert len(intent.wanted("ipvs")[WEB]) == HEAD_SIZE
    assert ON_LAN in wanted(intent, "addresses")
    assert NftKey("open4", (VIP, "tcp", 80)) in wanted(intent, "elements")
    assert intent.settle((), 10_000.0) == {}
    dirty = intent.settle({WEB}, 30.0)
    assert dirty["addresses"] == {ON_LAN}
    assert wanted(intent, "ipvs") == set()
    assert wanted(intent, "elements") == set()


def test_what_lingers_lingers_after_a_restart_too(store: Store) -> None:
    intent = Intent(store, context(), 0.0)
    intent.apply({"default/web": plan()}, 10.0)
    intent.apply({"default/web": None}, 20.0)
    again = Intent(Store(store.path), context(), 25.0)
    assert ON_LAN in wanted(again, "addresses")
    again.settle({WEB}, 30.0)
    assert ON_LAN not in wanted(again, "addresses")
    assert ON_LAN not in wanted(Intent(Store(store.path), context(), 35.0), "addresses")


def test_a_dropped_port_keeps_its_guard_open_until_it_has_drained(store: Store) -> None:
    intent = Intent(store, context(), 0.0)
    two = (PlanPort("http", Protocol.TCP, 80), PlanPort("https", Protocol.TCP, 443))
    servers = tuple(replace(b, servers=(replace(b.servers[0], ports=(80, 443)),)) for b in hosts(21, 22))
    intent.apply({"default/web": plan(ports=two, backends=servers)}, 10.0)
    intent.apply({"default/web": plan()}, 20.0)
    https = pack_key("TCP", VIP, 443)
    assert NftKey("open4", (VIP, "tcp", 443)) in wanted(intent, "elements")
    intent.settle({https}, 21.0)
    assert NftKey("open4", (VIP, "tcp", 443)) not in wanted(intent, "elements")
    assert ON_LAN in wanted(intent, "addresses")


def test_a_source_that_is_no_longer_allowed_is_refused_at_once(store: Store) -> None:
    intent = Intent(store, context(), 0.0)
    intent.apply({"default/web": plan(allowed_sources=("203.0.113.0/24", "198.51.100.0/24"))}, 10.0)
    intent.apply({"default/web": plan(allowed_sources=("203.0.113.0/24",))}, 20.0)
    sources = {key.element[3] for key in intent.wanted("elements") if key.set == "sources4"}
    assert sources == {"203.0.113.0/24", "192.0.2.1"}


def test_a_vip_that_another_director_holds_goes_at_once(store: Store) -> None:
    intent = Intent(store, context(), 0.0)
    intent.apply({"default/web": plan()}, 10.0)
    dirty = intent.apply({"default/web": plan(addresses=(PlanAddress(VIP, "lb0"),))}, 20.0)
    assert dirty["addresses"] == {ON_LAN}
    assert wanted(intent, "addresses") == set()
    assert wanted(intent, "ipvs") == {WEB}


MOVED = plan(addresses=(PlanAddress(VIP, "lb0"),), directors=(PlanDirector("lb0", ("192.0.2.2",)),))
"""The VIP is another director's, and this host none any more."""


def test_a_vip_goes_at_once_from_a_host_that_directs_no_more_and_its_service_drains(store: Store) -> None:
    intent = Intent(store, context(), 0.0)
    intent.apply({"default/web": plan()}, 10.0)
    dirty = intent.apply({"default/web": MOVED}, 20.0)
    assert dirty["addresses"] == {ON_LAN}
    for one in (intent, Intent(Store(store.path), context(), 25.0)):
        assert wanted(one, "addresses") == set()
        assert len(one.wanted("ipvs")[WEB]) == HEAD_SIZE
        one.settle({WEB}, 30.0)
        assert wanted(one, "ipvs") == set()


def test_a_vip_goes_when_another_director_is_told_of_also_after_its_group_was_left(store: Store) -> None:
    intent = Intent(store, context(), 0.0)
    intent.apply({"default/web": plan(), "default/other": plan(ports=(PlanPort("https", Protocol.TCP, 443),))}, 10.0)
    intent.apply({"default/other": None}, 15.0)
    intent.reconsider(replace_groups(intent, replace(intent.context.groups["default"], director=False)), 20.0)
    assert wanted(intent, "addresses") == {ON_LAN}
    dirty = intent.apply({"default/web": MOVED}, 21.0)
    assert dirty["addresses"] == {ON_LAN}
    assert wanted(intent, "addresses") == set()


def test_a_real_servers_role_stays_for_the_drain_timeout(store: Store) -> None:
    intent = Intent(store, real_server(), 0.0)
    intent.apply({"default/web": plan(Forwarding.DR)}, 10.0)
    assert ON_DUMMY in wanted(intent, "addresses")
    intent.apply({"default/web": plan(Forwarding.NAT)}, 20.0)
    assert intent.next_deadline() == 80.0
    intent.settle((), 79.0)
    assert ON_DUMMY in wanted(intent, "addresses")
    assert NftKey("silent4", (VIP,)) in wanted(intent, "elements")
    dirty = intent.settle((), 80.0)
    assert ON_DUMMY in dirty["addresses"]
    assert wanted(intent, "addresses") == set()


def test_a_real_server_that_becomes_the_holder_is_no_longer_silent(store: Store) -> None:
    intent = Intent(store, real_server(), 0.0)
    intent.apply({"default/web": plan(Forwarding.DR)}, 10.0)
    group = replace(intent.context.groups["default"], director=True)
    held = plan(addresses=(PlanAddress(VIP, "rs1"),), directors=(*plan().directors, *_director("rs1", "192.0.2.21")))
    intent.reconsider(replace_groups(intent, group), 20.0)
    intent.apply({"default/web": held}, 20.0)
    assert ON_LAN in wanted(intent, "addresses")
    assert NftKey("silent4", (VIP,)) not in wanted(intent, "elements")


def test_established_masqueraded_flows_stay_tracked_when_forwarding_becomes_dr(store: Store) -> None:
    intent = Intent(store, context(), 0.0)
    intent.apply({"default/web": plan(Forwarding.NAT)}, 10.0)
    intent.apply({"default/web": plan(Forwarding.DR)}, 20.0)
    elements = wanted(intent, "elements")
    flow = (VIP, "tcp", 80)
    assert {NftKey("untracked4", flow), NftKey("tracked4", flow)} <= elements
    assert NftKey("masquerade4", flow) not in elements
    intent.settle((), 80.0)
    assert NftKey("tracked4", flow) not in wanted(intent, "elements")


def test_dr_connections_keep_their_next_hop_when_forwarding_becomes_nat(store: Store) -> None:
    intent = Intent(store, context(), 0.0)
    intent.apply({"default/web": plan(Forwarding.DR)}, 10.0)
    hop = RouteKey(4, 11800, "192.0.2.21/32")
    assert hop in wanted(intent, "routes")
    intent.apply({"default/web": plan(Forwarding.NAT)}, 20.0)
    assert hop in wanted(intent, "routes")
    intent.settle((), 80.0)
    assert wanted(intent, "routes") == set()
    assert wanted(intent, "rules") == set()


def test_a_plan_that_must_be_refused_leaves_the_one_before_in_force(store: Store) -> None:
    intent = Intent(store, context(), 0.0)
    intent.apply({"default/web": plan()}, 10.0)
    outside = plan(addresses=(PlanAddress("198.51.100.1", "lb1"),))
    assert intent.apply({"default/web": outside}, 20.0) == {}
    assert ON_LAN in wanted(intent, "addresses")
    (finding,) = intent.findings["default/web"]
    assert finding.reason == "AddressOutsideGroup"
    assert "198.51.100.1" in finding.message
    assert ON_LAN in wanted(Intent(Store(store.path), context(), 25.0), "addresses")


def test_the_same_plan_again_changes_nothing(store: Store) -> None:
    intent = Intent(store, context(), 0.0)
    assert intent.apply({"default/web": plan()}, 10.0)
    assert intent.apply({"default/web": plan()}, 11.0) == {}


def _director(node: str, address: str) -> tuple[object, ...]:
    from ipvs_api.plan import PlanDirector

    return (PlanDirector(node, (address,)),)


def replace_groups(intent: Intent, group: object) -> object:
    from ipvs_agent.desired.share import Context

    return Context(intent.context.host, {"default": group}, intent.context.paths)  # type: ignore[dict-item]
