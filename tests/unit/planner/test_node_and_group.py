"""What a node is told as a whole, and what a DirectorGroup's status says."""

from typing import Any

import pytest

from ipvs_api.directorgroup import DirectorGroupStatus, KernelSettings, Timeouts
from ipvs_api.node import IPVSNodeSpec, NodeGroup
from ipvs_planner.group_status import compile_group
from ipvs_planner.node_spec import NODE_GROUPS, CompiledNode, compile_node
from ipvs_planner.snapshot import Declared, Snapshot

from .worlds import BASE, group, node

THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
LB2 = node("lb2", "10.0.0.2", director=True)


def snapshot(*declared: Declared) -> Snapshot:
    made = Snapshot(trusted=True)
    for each in (*BASE, *declared):
        made.put(each)
    return made


def told(name: str, *declared: Declared, previous: IPVSNodeSpec | None = None) -> CompiledNode:
    return compile_node(snapshot(*declared), name, previous)


def test_every_node_knows_every_groups_ranges_and_directors_know_that_they_direct() -> None:
    core = group("core", addresses=["198.51.100.1-198.51.100.9"], announcement="none", interface="eth1")
    assert told("rs1", core).spec.groups == (
        NodeGroup("core", ("198.51.100.1-198.51.100.9",), director=False, interface="eth1", announcement="None"),
        NodeGroup("edge", ("192.0.2.0/28", "2001:db8::/120"), director=False, announcement="Static"),
    )
    assert [entry.director for entry in told("lb1", core).spec.groups] == [True, True]
    assert [entry.director for entry in told("nobody", core).spec.groups] == [False, False]


FLOATING = [
    # announcement, directors → who holds the floating gateway addresses
    ("static", (), {"lb1"}),
    ("static", (LB2,), {"lb1"}),
    ("none", (), {"lb1"}),
    ("none", (LB2,), set()),
]


@pytest.mark.parametrize(("announcement", "others", "holders"), FLOATING)
def test_floating_gateway_addresses_are_where_the_virtual_addresses_are(
    announcement: str, others: tuple[Declared, ...], holders: set[str]
) -> None:
    floating = group(announcement=announcement, gatewayAddresses=["10.0.0.254"])
    names = ("lb1", "lb2", "rs1")
    specs = {name: told(name, floating, *others).spec.groups[0] for name in names}
    assert {name for name, entry in specs.items() if entry.gateway_holder} == holders
    assert {entry.gateway_addresses for entry in specs.values()} == {("10.0.0.254",)}
    assert not told("lb1").spec.groups[0].gateway_holder, "nothing to hold"


def test_kernel_settings_of_all_groups_that_a_node_directs_come_together() -> None:
    edge = group(kernel={"sloppyTCP": True, "timeouts": {"tcpSeconds": 600}})
    core = group("core", kernel={"connReuseMode": 0, "timeouts": {"udpSeconds": 30}})
    expected = KernelSettings(Timeouts(tcp_seconds=600, udp_seconds=30), conn_reuse_mode=0, sloppy_tcp=True)
    assert told("lb1", edge, core) == CompiledNode(told("lb1", edge, core).spec, ())
    assert told("lb1", edge, core).spec.kernel == expected
    assert told("rs1", edge, core).spec.kernel == KernelSettings(), "it directs for none"


def test_groups_that_disagree_on_a_node_are_told_and_the_first_by_name_is_followed() -> None:
    made = snapshot(
        group("a", kernel={"sloppyTCP": True, "timeouts": {"tcpSeconds": 5}}),
        group("b", kernel={"sloppyTCP": False, "timeouts": {"tcpSeconds": 6}}),
        group("c", kernel={"sloppyTCP": True}, nodeSelector={"matchLabels": {"far": "away"}}),
    )
    result = compile_node(made, "lb1")
    assert result.spec.kernel == KernelSettings(Timeouts(tcp_seconds=5), sloppy_tcp=True)
    assert [finding.reason for finding in result.notes] == ["SettingsDisagree"] * 2
    messages = {name: accepted(made, name).message for name in ("a", "b", "c")}
    assert "spec.kernel.sloppyTCP: DirectorGroup a wants true" in messages["a"]
    assert "spec.kernel.timeouts.tcpSeconds: DirectorGroup a wants 5" in messages["b"]
    assert messages["c"] == ""


def test_a_group_that_cannot_be_used_keeps_what_the_node_was_told_before() -> None:
    broken = group(addresses=["192.0.2.0/33"])
    before = told("lb1").spec
    assert told("lb1", broken).spec.groups == ()
    assert told("lb1", broken, previous=before).spec.groups == before.groups
    gone = snapshot()
    gone.remove("DirectorGroup", "", "edge")
    assert compile_node(gone, "lb1", before).spec.groups == ()


def test_of_too_many_groups_a_node_is_told_those_that_it_directs_first() -> None:
    many = [group(f"a{number}", nodeSelector={"matchLabels": {"far": "away"}}) for number in range(NODE_GROUPS)]
    result = told("lb1", *many)
    names = [entry.name for entry in result.spec.groups]
    assert len(names) == NODE_GROUPS
    assert "edge" in names
    assert [finding.reason for finding in result.notes] == ["TooManyGroups"]


def test_a_node_knows_what_is_behind_it() -> None:
    behind = node("rs1", "10.0.0.11", pods=["10.1.1.0/24", "2001:db8:1::/64", "nonsense"])
    assert told("rs1", behind).spec.pod_cidrs == ("10.1.1.0/24", "2001:db8:1::/64")
    many = node("rs1", "10.0.0.11", pods=[f"10.1.{number}.0/24" for number in range(20)])
    assert len(told("rs1", many).spec.pod_cidrs) == 16
    assert told("nobody").spec.pod_cidrs == ()


def test_what_of_a_node_does_not_parse_is_named() -> None:
    wrong = node("rs1", "10.0.0.300", "10.0.0.11", pods=["10.1.2.1/24"])
    messages = [finding.message for finding in told("rs1", wrong).notes]
    assert len(messages) == 2
    assert "status.addresses[0].address: found '10.0.0.300'" in messages[0]
    assert "spec.podCIDRs[0]: found '10.1.2.1/24'" in messages[1]


def status(made: Snapshot, name: str, previous: DirectorGroupStatus | None = None, now: str = NOW) -> Any:
    return compile_group(made, name, previous, now)


def accepted(made: Snapshot, name: str) -> Any:
    (condition,) = (each for each in status(made, name).conditions if each.type == "Accepted")
    return condition


def test_a_groups_status_names_its_directors_and_counts_its_addresses() -> None:
    found = status(snapshot(LB2), "edge")
    assert found.directors == ("lb1", "lb2")
    assert found.addresses.total == 16 + 256
    assert [(condition.type, condition.status) for condition in found.conditions] == [
        ("Accepted", "True"),
        ("Ready", "True"),
    ]


SIZES = [
    (["192.0.2.1"], 1),
    (["192.0.2.0/28", "192.0.2.8-192.0.2.19"], 20),
    (["192.0.2.0/24", "192.0.2.7"], 256),
    (["192.0.2.1", "192.0.2.3"], 2),
    (["2001:db8::/64"], 2**53 - 1),
]


@pytest.mark.parametrize(("addresses", "total"), SIZES)
def test_addresses_in_several_ranges_count_once(addresses: list[str], total: int) -> None:
    assert status(snapshot(group(addresses=addresses)), "edge").addresses.total == total


def test_what_is_wrong_with_a_group_is_told_on_it() -> None:
    made = snapshot(group(announcement="none", nodeSelector={"matchLabels": {"zone": "x"}}))
    (ready,) = (each for each in status(made, "edge").conditions if each.type == "Ready")
    assert (ready.status, ready.reason) == ("False", "NoDirectors")
    assert "zone=x" in ready.message
    made = snapshot(group(addresses=["192.0.2.0/33", "192.0.2.9-192.0.2.1"]))
    condition = accepted(made, "edge")
    assert (condition.status, condition.reason) == ("False", "GroupInvalid")
    assert "spec.addresses[0]: found '192.0.2.0/33'" in condition.message
    assert "spec.addresses[1]" in condition.message
    assert status(made, "nowhere") is None


def test_connection_sync_is_not_passed_over_in_silence() -> None:
    condition = accepted(snapshot(group(connectionSync={"enabled": True, "syncID": 1})), "edge")
    assert (condition.status, "connectionSync" in condition.message) == ("True", True)
    assert accepted(snapshot(), "edge").message == ""


def test_more_directors_than_a_plan_can_name_are_told() -> None:
    many = [node(f"lb{number:03}", f"10.2.0.{number}", director=True) for number in range(1, 131)]
    made = snapshot(*many)
    assert len(status(made, "edge").directors) == 128
    assert "131 Nodes match" in accepted(made, "edge").message


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = status(snapshot(), "edge", now=THEN)
    again = status(snapshot(LB2), "edge", first)
    assert {condition.last_transition_time for condition in again.conditions} == {THEN}
    gone = snapshot()
    gone.remove("Node", "", "lb1")
    times = {each.type: each.last_transition_time for each in status(gone, "edge", again).conditions}
    assert times == {"Accepted": THEN, "Ready": NOW}


SELECTORS = [
    ({}, {"lb1", "rs1", "rs2"}),
    ({"matchLabels": {"ipvs.dev/director": "true"}}, {"lb1"}),
    ({"matchLabels": {"ipvs.dev/director": "false"}}, set()),
    ({"matchExpressions": [{"key": "ipvs.dev/director", "operator": "Exists"}]}, {"lb1"}),
    ({"matchExpressions": [{"key": "ipvs.dev/director", "operator": "DoesNotExist"}]}, {"rs1", "rs2"}),
    ({"matchExpressions": [{"key": "ipvs.dev/director", "operator": "In", "values": ["no", "true"]}]}, {"lb1"}),
    ({"matchExpressions": [{"key": "ipvs.dev/director", "operator": "NotIn", "values": ["true"]}]}, {"rs1", "rs2"}),
    (
        {
            "matchLabels": {"ipvs.dev/director": "true"},
            "matchExpressions": [{"key": "ipvs.dev/director", "operator": "NotIn", "values": ["true"]}],
        },
        set(),
    ),
]


@pytest.mark.parametrize(("selector", "directors"), SELECTORS)
def test_directors_are_the_nodes_that_the_selector_matches(selector: dict[str, Any], directors: set[str]) -> None:
    assert set(status(snapshot(group(nodeSelector=selector)), "edge").directors) == directors
