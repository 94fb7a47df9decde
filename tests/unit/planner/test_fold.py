"""Status from plans and reports. A director is lb1 or lb2, a real server's node rs1 or rs2."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from ipvs_api.meta import Condition
from ipvs_api.node import IPVSNodeStatus
from ipvs_api.virtualservice import VirtualServiceStatus
from ipvs_planner.compiled import Compiled, Outcome, ServerCounts
from ipvs_planner.fold import fold
from ipvs_planner.reasons import Reason
from ipvs_planner.reports import Void

from .worlds import BASE, compiled, group, node, report, service

T0, T1, T2, T3 = (f"2026-01-01T00:{minute:02}:00Z" for minute in range(4))
LB2 = node("lb2", "10.0.0.2", director=True)
NODES = ("lb1", "lb2", "rs1", "rs2")
DR = service(forwarding="DR")


def stored(result: Compiled, version: str = "7") -> Compiled:
    """As read back from where plans are stored."""
    plans = tuple(
        msgspec.structs.replace(plan, metadata=msgspec.structs.replace(plan.metadata, resource_version=version))
        for plan in result.plans
    )
    return msgspec.structs.replace(result, plans=plans)


PLANNED = stored(compiled(*BASE, LB2, DR))
REFUSED = compiled(*BASE, LB2, service(vips=[]))
WITHDRAWN = compiled(*BASE, LB2, service(vips=["198.51.100.1"]))
KEPT = msgspec.structs.replace(REFUSED, plans=PLANNED.plans)


def failure(message: str = "no", real_server: str = "", name: str = "web", reason: str = "Broken") -> dict[str, Any]:
    return {"namespace": "shop", "name": name, "reason": reason, "message": message, "realServer": real_server}


def reports(**changed: IPVSNodeStatus | None) -> dict[str, IPVSNodeStatus]:
    """All nodes have everything up to version 7, but for ``changed``; None: no report."""
    found: Mapping[str, IPVSNodeStatus | None] = {name: report("7") for name in NODES} | changed
    return {name: each for name, each in found.items() if each is not None}


def conditions(status: VirtualServiceStatus) -> dict[str, str]:
    return {each.type: f"{each.status} {each.reason}" for each in status.conditions}


def condition(status: VirtualServiceStatus, kind: str) -> Condition:
    (found,) = (each for each in status.conditions if each.type == kind)
    return found


LATE, TORN = report("6"), report("7", failures=[failure()])
PARTLY = report("7", failures=[failure(real_server="10.0.0.11")])
CUT = report("7", truncated=True, counts={"failures": 300})
CASES = [
    # outcome, reports → Ready, Programmed, further conditions, nodes
    (PLANNED, reports(), "True Programmed", "True Programmed", set(), "4/4"),
    (PLANNED, {}, "Unknown Pending", "False Pending", {"Reconciling"}, "0/4"),
    (PLANNED, reports(lb1=LATE), "Unknown Pending", "False Pending", {"Reconciling"}, "3/4"),
    (PLANNED, reports(lb1=TORN), "False Broken", "False ProgrammingFailed", set(), "3/4"),
    (PLANNED, reports(lb1=CUT), "Unknown ReportTruncated", "Unknown ReportTruncated", set(), "3/4"),
    (PLANNED, reports(lb1=PARTLY), "True Programmed", "False ProgrammingFailed", set(), "3/4"),
    (PLANNED, reports(lb2=LATE), "Unknown Pending", "False Pending", {"Reconciling"}, "3/4"),
    (PLANNED, reports(lb2=TORN), "Unknown Broken", "False ProgrammingFailed", set(), "3/4"),
    (PLANNED, reports(rs1=None), "Unknown Pending", "False Pending", {"Reconciling"}, "3/4"),
    (PLANNED, reports(rs1=TORN), "Unknown Broken", "False ProgrammingFailed", set(), "3/4"),
    (PLANNED, reports(rs1=CUT), "Unknown ReportTruncated", "Unknown ReportTruncated", set(), "3/4"),
    (PLANNED, reports(rs1=TORN, rs2=None), "Unknown Broken", "False ProgrammingFailed", {"Reconciling"}, "2/4"),
    (REFUSED, reports(), "False AddressRequired", "False Refused", {"Stalled"}, "0/0"),
    (WITHDRAWN, reports(), "False AddressOutsideGroup", "False Refused", {"Stalled"}, "0/0"),
    (KEPT, reports(), "False AddressRequired", "True Programmed", {"Stalled"}, "4/4"),
]


@pytest.mark.parametrize(("result", "seen", "ready", "programmed", "further", "nodes"), CASES)
def test_ready_wants_everybody_first_and_is_false_only_where_the_owning_director_fails(
    result: Compiled, seen: dict[str, IPVSNodeStatus], ready: str, programmed: str, further: set[str], nodes: str
) -> None:
    status = fold(result, seen, None, T0)
    found = conditions(status)
    assert found.pop("Accepted") == ("True Accepted" if result.outcome is Outcome.PLANNED else ready)
    assert found.pop("Ready") == ready
    assert found.pop("Programmed") == programmed
    assert set(found) == further
    assert status.summary.nodes == nodes
    assert {each.observed_generation for each in status.conditions} == {status.observed_generation} == {1}


def test_without_a_holder_every_director_owns_the_address() -> None:
    silent = stored(compiled(*BASE, LB2, group(announcement="none"), DR))
    assert conditions(fold(silent, reports(), None, T0))["Ready"] == "True Programmed"
    assert conditions(fold(silent, reports(lb2=TORN), None, T0))["Ready"] == "False Broken"
    assert conditions(fold(silent, reports(rs1=TORN), None, T0))["Ready"] == "Unknown Broken"


def test_once_ready_only_owning_directors_count() -> None:
    before = fold(PLANNED, reports(), None, T0)
    for others in ({"lb2": LATE}, {"lb2": TORN}, {"rs1": None}, {"rs1": TORN, "rs2": None}):
        assert conditions(fold(PLANNED, reports(**others), before, T1))["Ready"] == "True Programmed"
    assert conditions(fold(PLANNED, reports(lb1=TORN), before, T1))["Ready"] == "False Broken"
    changed = msgspec.structs.replace(PLANNED, generation=2)
    assert conditions(fold(changed, reports(rs1=None), before, T1))["Ready"] == "Unknown Pending", "another generation"


def test_a_report_that_does_not_count_is_unknown_with_its_reason() -> None:
    voids = {"rs1": Void(Reason.NODE_NOT_READY, "rs1 is not ready")}
    status = fold(PLANNED, reports(rs1=None), None, T0, voids=voids)
    assert conditions(status)["Ready"] == conditions(status)["Programmed"] == "Unknown NodeNotReady"
    assert "rs1 is not ready" in condition(status, "Ready").message
    assert "Reconciling" not in conditions(status), "nobody works at it"
    before = fold(PLANNED, reports(), None, T0)
    assert conditions(fold(PLANNED, reports(rs1=None), before, T1, voids=voids))["Ready"] == "True Programmed"


def test_what_is_still_to_be_told_is_not_ready_the_first_time() -> None:
    first = fold(PLANNED, reports(), None, T0, unfinished="rs1 prepares.")
    assert conditions(first)["Ready"] == "Unknown Pending"
    assert conditions(first)["Reconciling"] == "True Preparing"
    later = fold(PLANNED, reports(), fold(PLANNED, reports(), first, T1), T2, unfinished="rs1 prepares.")
    assert conditions(later)["Ready"] == "True Programmed"


def test_without_real_servers_it_is_not_ready() -> None:
    nobody = msgspec.structs.replace(PLANNED, servers=ServerCounts(3, 0))
    status = fold(nobody, reports(), None, T0)
    assert conditions(status)["Ready"] == "False NoRealServers"
    assert status.summary.healthy == "0/3"


def test_a_director_that_cannot_use_any_real_server_does_not_serve() -> None:
    all_failed = report("7", failures=[failure(real_server=f"10.0.0.{host}") for host in (11, 12)])
    status = fold(PLANNED, reports(lb1=all_failed), None, T0)
    assert conditions(status)["Ready"] == "False Broken"
    assert "and 1 more real servers" in condition(status, "Ready").message


def test_a_failure_of_another_virtual_service_is_none_of_this_one() -> None:
    other = report("7", failures=[failure(name="other")])
    assert conditions(fold(PLANNED, reports(lb1=other), None, T0))["Ready"] == "True Programmed"


def test_what_truncation_may_have_cut_off_is_unknown_and_nothing_else() -> None:
    def ready(**fields: Any) -> str:
        return conditions(fold(PLANNED, reports(lb1=report("7", truncated=True, **fields)), None, T0))["Ready"]

    assert ready(counts={"draining": 500}) == "True Programmed", "what was cut off is something else"
    assert ready(counts={"failures": 1, "unhealthy": 5}, failures=[failure(name="other")]) == "True Programmed"
    assert ready(counts={"failures": 2, "unhealthy": 5}, failures=[failure(name="other")]) == "Unknown ReportTruncated"
    assert ready() == "Unknown ReportTruncated", "it does not say what was cut off"
    assert ready(counts={"failures": 2}, failures=[failure()]) == "False Broken", "it is named"


VERSIONS = [
    ("7", "7", True),
    ("8", "7", True),
    ("10", "9", True),
    ("9", "10", False),
    ("", "7", False),
    ("x", "7", False),
    ("x", "x", True),
    ("6", "", True),
    ("123456789012345678901", "99999999999999999999", True),
]


@pytest.mark.parametrize(("observed", "version", "reached"), VERSIONS)
def test_a_report_counts_from_the_plans_own_version_on(observed: str, version: str, reached: bool) -> None:
    result = stored(compiled(*BASE, DR), version)
    seen = {name: report(observed) for name in NODES}
    assert conditions(fold(result, seen, None, T0))["Programmed"] == ("True Programmed" if reached else "False Pending")


def test_times_move_only_with_the_status() -> None:
    def times(status: VirtualServiceStatus) -> dict[str, str]:
        return {each.type: each.last_transition_time for each in status.conditions}

    first = fold(PLANNED, {}, None, T0)
    assert set(times(first).values()) == {T0}
    second = fold(PLANNED, reports(), first, T1)
    assert times(second) == {"Accepted": T0, "Programmed": T1, "Ready": T1}
    assert fold(PLANNED, reports(), second, T2) == second, "nothing happened, nothing is written"
    third = fold(PLANNED, reports(rs1=TORN), second, T3)
    assert times(third) == {"Accepted": T0, "Programmed": T3, "Ready": T1}


def test_a_director_that_lags_makes_it_unready_after_the_deadline_only() -> None:
    ready = fold(PLANNED, reports(), None, T0)
    changed = stored(compiled(*BASE, LB2, DR), "8")
    seen = {name: report("8") for name in NODES} | {"lb1": report("7")}
    late = fold(changed, seen, ready, T1)
    assert conditions(late)["Ready"] == "True Programmed", "same generation: a node came or went"
    assert conditions(late)["Reconciling"] == "True Pending"
    for behind in ({"lb1": 59.0}, {"lb2": 3600.0}):
        assert conditions(fold(changed, seen, late, T2, behind=behind))["Ready"] == "True Programmed"
    overdue = fold(changed, seen, late, T2, behind={"lb1": 60.0})
    assert conditions(overdue)["Ready"] == "False Lagging"
    assert "lb1" in condition(overdue, "Ready").message
    mended = fold(changed, seen | {"lb1": report("8")}, overdue, T3)
    assert conditions(mended) == {
        "Accepted": "True Accepted",
        "Programmed": "True Programmed",
        "Ready": "True Programmed",
    }


def test_a_new_generation_is_not_ready_before_its_director_has_it() -> None:
    ready = fold(PLANNED, reports(), None, T0)
    plans = stored(PLANNED, "8").plans
    edited = msgspec.structs.replace(PLANNED, generation=2, plans=plans)
    assert conditions(fold(edited, reports(), ready, T1))["Ready"] == "Unknown Pending"


@pytest.mark.parametrize("now", ["", "yesterday", "2026-01-01T00:02:00"])
def test_a_time_that_cannot_be_compared_is_no_deadline(now: str) -> None:
    late = fold(PLANNED, {}, None, T0)
    assert conditions(fold(PLANNED, {}, late, now))["Ready"] == "Unknown Pending"


HERE = stored(compiled(*BASE, LB2, DR), "")
ALONE = [
    # host, its report → Ready, Programmed
    ("lb1", report(), "True Programmed", "Unknown NotSeenHere"),
    ("lb1", report(failures=[failure()]), "False Broken", "False ProgrammingFailed"),
    ("lb1", None, "Unknown Pending", "False Pending"),
    ("lb2", report(), "Unknown NotSeenHere", "Unknown NotSeenHere"),
    ("rs1", report(), "Unknown NotSeenHere", "Unknown NotSeenHere"),
    ("rs1", report(failures=[failure()]), "Unknown NotSeenHere", "False ProgrammingFailed"),
]


@pytest.mark.parametrize(("host", "own", "ready", "programmed"), ALONE)
def test_where_hosts_do_not_report_to_each_other_the_others_are_unknown(
    host: str, own: IPVSNodeStatus | None, ready: str, programmed: str
) -> None:
    status = fold(HERE, {host: own} if own is not None else {}, None, T0, here=host)
    found = conditions(status)
    assert (found["Ready"], found["Programmed"]) == (ready, programmed)
    assert ("Reconciling" in found) == (own is None), "nobody waits for what will never be seen"
    if "NotSeenHere" in found["Programmed"]:
        assert "not seen" in condition(status, "Programmed").message


def test_a_host_that_is_alone_with_machines_knows_everything() -> None:
    only = compiled(*BASE, service(servers=["10.9.9.9"]))
    found = conditions(fold(only, {"lb1": report()}, None, T0, here="lb1"))
    assert (found["Ready"], found["Programmed"]) == ("True Programmed", "True Programmed")


def test_numbers_and_summary_say_what_kernels_reported() -> None:
    draining = [{"namespace": "shop", "name": "web", "address": f"10.0.0.{host}"} for host in (8, 9)]
    others = [{"namespace": "shop", "name": "other", "address": "10.0.0.7"}]
    seen = reports(lb1=report("7", draining=draining + others), lb2=report("7", draining=draining[:1]))
    status = fold(PLANNED, seen, None, T0)
    assert (status.directors.desired, status.directors.programmed) == (2, 2)
    assert (status.nodes.desired, status.nodes.programmed) == (4, 4)
    assert (status.real_servers.total, status.real_servers.draining) == (2, 2)
    assert (status.summary.vip, status.summary.nodes) == ("192.0.2.10", "4/4")


def test_health_is_never_claimed_while_nobody_checks_it() -> None:
    status = fold(PLANNED, reports(), None, T0)
    assert status.real_servers.healthy == 0
    assert status.summary.healthy == "unchecked"
    assert "not checked" in condition(status, "Ready").message
    assert "not checked" in condition(status, "Accepted").message


def test_an_address_names_the_director_that_has_it_and_nobody_before() -> None:
    def answering(**changed: IPVSNodeStatus | None) -> str:
        (address,) = fold(PLANNED, reports(**changed), None, T0).addresses
        return address.director

    assert answering() == answering(lb1=PARTLY) == "lb1"
    assert answering(lb1=LATE) == answering(lb1=TORN) == answering(lb1=None) == answering(lb1=CUT) == ""


def test_failures_are_named_ten_at_most_the_worst_first() -> None:
    nodes = [node(f"rs{number:02}", f"10.3.0.{number}") for number in range(1, 31)]
    result = stored(compiled(*BASE, *nodes, service(servers=[f"10.3.0.{n}" for n in range(1, 31)], forwarding="DR")))
    seen = {f"rs{number:02}": PARTLY for number in range(1, 31)} | {"rs30": TORN, "lb1": report("7")}
    failures = fold(result, seen, None, T0).nodes.failures
    assert [each.node for each in failures] == ["rs30", *(f"rs{number:02}" for number in range(1, 10))]
    assert "real server 10.0.0.11" in failures[1].message


@pytest.mark.parametrize("reason", ["", "two words", "Überlast", "9"])
def test_a_nodes_reason_that_no_condition_may_have_is_replaced(reason: str) -> None:
    status = fold(PLANNED, reports(lb1=report("7", failures=[failure("it broke", reason=reason)])), None, T0)
    assert conditions(status)["Ready"] == "False ProgrammingFailed"
    assert "it broke" in condition(status, "Ready").message


def test_every_status_is_one_that_the_api_takes() -> None:
    for result, seen, *_ in CASES:
        encoded = msgspec.json.encode(fold(result, seen, None, T0))
        assert msgspec.json.decode(encoded, type=VirtualServiceStatus) == fold(result, seen, None, T0)
