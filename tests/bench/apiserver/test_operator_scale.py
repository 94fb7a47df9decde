"""The operator at size, on an API server of its own: what it costs to begin, to begin again, and to follow changes.

Times are this machine's, where API server,
operator, agents and the bench itself share the CPUs; the bare writer's rate says what the API server takes here.
"""

import json
import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any

import pytest
from tests.apiserver.operators import RunningOperator, operating
from tests.bench.apiserver import load
from tests.bench.apiserver.fleet import Fleet
from tests.bench.apiserver.load import (
    BARE,
    FEW_NODES,
    MANAGER,
    MANY_NODES,
    SERVICES_COUNTS,
    SHOP,
    SYSTEM,
    Toggled,
    in_threads,
)

from ipvs_kube.api import Api
from ipvs_kube.resources import ENDPOINT_SLICES, IPVS_ADDRESSES, PLANS, SERVICES, VIRTUAL_SERVICES
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.net.waiting import await_condition

LONGEST = 600.0
"""Seconds that anything may take; then something is broken."""
QUIET_SECONDS = 3.0
CHANGES = 50
STORM_SECONDS, STORM_THREADS = 60.0, 8
BARE_SERVICES = 1000

Figures = dict[str, Any]


@contextmanager
def running(plane: ControlPlane) -> Iterator[tuple[RunningOperator, int, float, float]]:
    """An operator, its process, when it was started and when it was ready."""
    start = perf_counter()
    with operating(plane, SYSTEM, log_level="warning", ready=False) as operator:
        assert operator.process is not None
        await_condition(lambda: operator.ask("/readyz")[0] == 200, LONGEST, "the operator is ready")
        yield operator, operator.process.pid, start, perf_counter()


def settle(fleet: Fleet, count: int, pid: int) -> float:
    """When the last thing happened, once nothing has for a while."""

    def look() -> bool:
        last = max(fleet.services.last, fleet.plans.last)
        return len(fleet.services.there) == count and fleet.quiet and perf_counter() - last > QUIET_SECONDS

    await_condition(look, LONGEST, "all is settled", every=0.2)
    load.await_idle(pid, LONGEST)
    return max(fleet.services.last, fleet.plans.last)


def from_nothing(plane: ControlPlane, api: Api, fleet: Fleet, count: int) -> tuple[Figures, Counter[str]]:
    before = load.written(api)
    with running(plane) as (_, pid, started, ready):
        end = settle(fleet, count, pid)
        cpu = load.cpu_seconds(pid)
        writes = load.written(api) - before
        own = load.by_operator(Counter(), writes)
        figures = {
            "ready, s": ready - started,
            "ready to settled, s": end - ready,
            "writes": own,
            "writes/s": sum(own.values()) / (end - ready),
            "reports of nodes": writes["APPLY ipvsnodes/status"],
            "CPU of the operator, s": cpu,
            **load.memory(pid),
        }
    return figures, Counter(own)


def bare_writer(api: Api, count: int, mix: Counter[str]) -> Figures:
    """The same writes for some of the objects, by nobody who has to think: claims, plans and statuses that are known,
    events left out."""
    some = min(count, BARE_SERVICES)
    plans = max(1, round(mix["APPLY virtualserviceplans"] / count))
    statuses = max(1, round(mix["APPLY ipvsvirtualservices/status"] / count))
    load.create_all(
        api, VIRTUAL_SERVICES, BARE, [load.virtual_service(each, load.OTHER_ADDRESSES) for each in range(some)]
    )
    stored = {
        each["metadata"]["name"]: each
        for resource, namespace in ((PLANS, SYSTEM), (VIRTUAL_SERVICES, SHOP))
        for page in api.pages(resource, namespace)
        for each in map(json.loads, map(bytes, page.items))
    }
    done: list[None] = []

    def work(number: int) -> None:
        name, address = load.name_of(number), load.vip(number, load.OTHER_ADDRESSES)
        claim = {"address": address, "directorGroup": "default", "namespace": BARE, "owners": [{"name": name}]}
        meta = {"name": address, "labels": {"bench": BARE}}
        api.create(IPVS_ADDRESSES, "", {"metadata": meta, "spec": claim}, MANAGER)
        plan = stored[f"{SHOP}.{name}.0"]
        for turn in range(plans):
            spec = plan["spec"] | {"drainTimeoutSeconds": 60 + turn}
            meta = {"name": plan["metadata"]["name"], "labels": plan["metadata"]["labels"]}
            api.apply(PLANS, BARE, plan["metadata"]["name"], {"metadata": meta, "spec": spec}, MANAGER)
        for turn in range(statuses):
            status = stored[name]["status"] | {"directors": {"desired": turn, "programmed": turn}}
            value = {"metadata": {"name": name}, "status": status}
            api.apply(VIRTUAL_SERVICES, BARE, name, value, MANAGER, subresource="status")
        done.extend([None] * (1 + plans + statuses))

    seconds = in_threads(work, range(some))
    for resource in (VIRTUAL_SERVICES, PLANS):
        api.request("DELETE", resource.path(BARE))
    api.request("DELETE", IPVS_ADDRESSES.path(), {"labelSelector": f"bench={BARE}"})
    return {"claims, plans, statuses of each": [1, plans, statuses], "writes/s": len(done) / seconds}


def again(api: Api, before: Counter[str], pid: int, started: float, ready: float) -> Figures:
    """After a restart with everything right already."""
    idle = load.await_idle(pid, LONGEST)
    writes = load.by_operator(before, load.written(api))
    assert not writes
    return {
        "ready, s": ready - started,
        "everything looked at, s": idle - started,
        "CPU of the operator, s": load.cpu_seconds(pid),
        **load.memory(pid),
    }


def one_change(fleet: Fleet, toggled: Toggled, count: int, pid: int) -> Figures:
    spans, others = [], 0
    for turn in range(CHANGES):
        number = (turn * 7919) % count
        name, plan = load.name_of(number), f"{SHOP}.{load.name_of(number)}.0"
        plans, services = fleet.plans.changes.copy(), fleet.services.changes.copy()
        answered = toggled.toggle(ENDPOINT_SLICES, number)
        await_condition(lambda plan=plan, plans=plans: fleet.plans.changes[plan] > plans[plan], 30, every=0.005)
        spans.append((fleet.plans.at[plan] - answered) * 1000)
        await_condition(
            lambda name=name, before=services: fleet.services.changes[name] > before[name] and fleet.quiet, 30
        )
        others += len((fleet.plans.changes - plans).keys() - {plan})
        others += len((fleet.services.changes - services).keys() - {name})
    spans.sort()
    load.await_idle(pid, LONGEST)
    return {
        "endpoint to plan, median ms": statistics.median(spans),
        "endpoint to plan, 95th percentile ms": spans[len(spans) * 95 // 100],
        "other plans and statuses written": others,
    }


def storm(api: Api, fleet: Fleet, toggled: Toggled, count: int, pid: int) -> Figures:
    """As many changes as the API server takes, for a while."""
    before, plans, cpu = load.memory(pid)["resident, MiB"], fleet.plans.changes.total(), load.cpu_seconds(pid)
    start = perf_counter()
    changes, last = toggled.for_a_while(ENDPOINT_SLICES, STORM_SECONDS, STORM_THREADS)
    unsettled, written = len(fleet.services.unsettled), fleet.plans.changes.total() - plans
    await_condition(lambda: servers(api) == toggled.pods, LONGEST, "all plans are right", every=1)
    end = settle(fleet, count, pid)
    return {
        "changes/s": changes / (last - start),
        "plans written meanwhile /s": written / (last - start),
        "statuses not right at the end": unsettled,
        "settled after the last change, s": max(end - last, 0.0),
        "plans written": fleet.plans.changes.total() - plans,
        "CPU of the operator, s": load.cpu_seconds(pid) - cpu,
        "resident before, MiB": before,
        "resident after, MiB": load.memory(pid)["resident, MiB"],
    }


def servers(api: Api) -> int:
    """Real servers of all plans, as they are stored."""
    plans = (json.loads(bytes(item)) for page in api.pages(PLANS, SYSTEM) for item in page.items)
    return sum(len(backend["servers"]) for plan in plans for backend in plan["spec"]["backends"])


@pytest.mark.parametrize("count", SERVICES_COUNTS)
def test_at_size(count: int) -> None:
    def tell(what: str, figures: Figures) -> None:
        load.tell(f"{count} VirtualServices x {load.ENDPOINTS} endpoints, {what}", figures)

    with load.cluster(FEW_NODES) as (plane, api), ExitStack() as stack:
        numbers = range(count)
        made = load.create_all(api, SERVICES, SHOP, [load.service(each) for each in numbers])
        made += load.create_all(api, ENDPOINT_SLICES, SHOP, [load.endpoint_slice(each) for each in numbers])
        made += load.create_all(api, VIRTUAL_SERVICES, SHOP, [load.virtual_service(each) for each in numbers])
        tell("set-up", {"s": made, "writes/s": 3 * count / made})
        toggled, fleet = Toggled(api, count), stack.enter_context(Fleet(api, FEW_NODES))
        figures, mix = from_nothing(plane, api, fleet, count)
        tell("from nothing", figures)
        bare = bare_writer(api, count, mix)
        tell("bare writer", bare | {"from nothing, ratio to it": figures["writes/s"] / bare["writes/s"]})
        before = load.written(api)
        with running(plane) as (_, pid, started, ready):
            tell("restart", again(api, before, pid, started, ready))
            tell("one endpoint changed", one_change(fleet, toggled, count, pid))
            tell("as many changes as the API server takes", storm(api, fleet, toggled, count, pid))


def test_reports_of_many_nodes() -> None:
    """One VirtualService whose pods are on all nodes: its first roll-out, and one pod less."""
    with load.cluster(MANY_NODES) as (plane, api), Fleet(api, MANY_NODES) as fleet:
        api.create(SERVICES, SHOP, load.service(0), MANAGER)
        with running(plane) as (_, pid, _, _):
            await_condition(lambda: fleet.reports >= MANY_NODES and fleet.quiet, LONGEST, "all nodes have reported")
            for what, pods in (("roll-out", MANY_NODES), ("one pod less", MANY_NODES - 1)):
                cpu, reports = load.cpu_seconds(pid), fleet.reports
                plans, statuses = fleet.plans.changes.total(), fleet.services.changes.total()
                start = perf_counter()
                made = load.endpoint_slice(0, pods, MANY_NODES)
                api.apply(ENDPOINT_SLICES, SHOP, load.name_of(0), made, MANAGER)
                if what == "roll-out":
                    api.create(VIRTUAL_SERVICES, SHOP, load.virtual_service(0, forwarding="DR"), MANAGER)
                await_condition(lambda plans=plans: fleet.plans.changes.total() > plans, 30, "a plan is written")
                end = settle(fleet, 1, pid)
                figures = {
                    "reports": fleet.reports - reports,
                    "settled, s": end - start,
                    "plans written": fleet.plans.changes.total() - plans,
                    "statuses written": fleet.services.changes.total() - statuses,
                    "CPU of the operator, s": load.cpu_seconds(pid) - cpu,
                }
                load.tell(f"reports of {MANY_NODES} nodes, {what}", figures)
