"""The operator's store, queue and planner by themselves, without an API server: what they keep up with."""

import asyncio
import random
import statistics
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tests.bench.apiserver import load
from tests.bench.apiserver.load import FEW_NODES, MANY_NODES, SERVICES_COUNTS, SHOP, SYSTEM, Object
from tests.bench.world import resident

from ipvs_api.core import EndpointSlice, Node, Service
from ipvs_api.directorgroup import DirectorGroup
from ipvs_api.ipaddress import IPVSAddress
from ipvs_api.meta import Condition, ConditionStatus, ObjectKey, ObjectMeta
from ipvs_api.node import IPVSNode, IPVSNodeStatus
from ipvs_api.plan import VirtualServicePlan
from ipvs_api.virtualservice import VirtualService
from ipvs_operator.items import Item, Work
from ipvs_operator.queue import KeyedQueue
from ipvs_operator.store import Store
from ipvs_planner.index import Key
from ipvs_planner.reconcile import reconcile, reconcile_node
from ipvs_planner.writes import Reconciliation, Verb, Write

CHANGES_PER_SECOND, SECONDS = 1000, 60.0
TYPES: Mapping[str, Any] = {type_.__name__: type_ for type_ in (VirtualServicePlan, IPVSAddress, IPVSNode)}
READY = (Condition("Ready", ConditionStatus.TRUE, "Programmed"),)


class Cluster:
    """A store, and what an API server would have stored of what is written."""

    def __init__(self, nodes: int) -> None:
        self.queue: KeyedQueue[Item] = KeyedQueue()
        self.store = Store(SYSTEM, self.queue.add, judges_pods=False)
        self.version = 0
        self._services: dict[str, VirtualService] = {}
        self._specs: dict[str, IPVSNode] = {}
        self.put(DirectorGroup, load.group(), namespace="")
        for number in range(nodes):
            self.put(Node, load.node(number), namespace="")

    def put(self, type_: Any, value: Object, namespace: str = SHOP) -> None:
        self.version += 1
        meta = {"namespace": namespace, "uid": f"uid-{self.version}", "resourceVersion": str(self.version)}
        value = value | {"metadata": value["metadata"] | meta | {"generation": 1}}
        made = msgspec.json.decode(msgspec.json.encode(value), type=type_)
        if isinstance(made, VirtualService):
            self._services[made.metadata.name] = made
        self.store.put(made)

    def work_out(self, item: Item) -> Reconciliation:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if item.work is Work.SERVICE:
            return reconcile(self.store.snapshot, Key(item.namespace, item.name), now)
        return reconcile_node(self.store.snapshot, item.name) if item.work is Work.NODE else Reconciliation()

    def carry_out(self, write: Write, by: Item) -> None:
        self.version += 1
        meta = replace(write.metadata, resource_version=str(self.version))
        if write.verb is Verb.DELETE:
            self.store.remove(ObjectKey(write.kind, meta.namespace, meta.name), str(self.version))
        elif write.kind == "VirtualService":
            before = self._services[meta.name]
            meta = replace(before.metadata, resource_version=str(self.version))
            self._services[meta.name] = replace(before, metadata=meta, status=write.status)
            self.store.put(self._services[meta.name], by=by)
        elif write.spec is not None:
            made = TYPES[write.kind](metadata=replace(meta, uid=meta.uid or f"uid-{self.version}"), spec=write.spec)
            if isinstance(made, IPVSNode):
                self._specs[meta.name] = made
            self.store.put(made)

    def report(self, number: int, observed: int) -> float:
        """A node's report comes; how many seconds of a CPU it took to take it in."""
        name, self.version = load.node_name(number), self.version + 1
        status = IPVSNodeStatus(boot_id="boot-1", conditions=READY, observed_resource_version=str(observed))
        meta = ObjectMeta(name, uid=f"uid-{name}", resource_version=str(self.version))
        made = replace(self._specs[name], metadata=meta, status=status)
        start = time.thread_time()
        self.store.put(made)
        return time.thread_time() - start

    async def work(self) -> bool:
        """Take one item and carry out what is to be written. Whether it was a VirtualService."""
        item = await self.queue.get()
        assert item is not None
        result = self.work_out(item)
        for write in result.writes:
            self.carry_out(write, item)
        if any(write.verb is not Verb.STATUS for write in result.writes):
            self.queue.add(item)
        self.queue.done(item)
        return item.work is Work.SERVICE

    async def settle(self) -> None:
        while len(self.queue):
            await self.work()

    async def report_all(self, nodes: int, observed: int) -> None:
        for number in range(nodes):
            self.report(number, observed)
        await self.settle()


FOR_EVER = 10**12
"""A resource version that no plan will reach: all is in the kernel at once."""


async def feed(count: int) -> dict[str, float]:
    cluster = Cluster(FEW_NODES)
    start = time.perf_counter()
    for number in range(count):
        cluster.put(Service, load.service(number))
        cluster.put(EndpointSlice, load.endpoint_slice(number))
        cluster.put(VirtualService, load.virtual_service(number))
    await cluster.settle()
    await cluster.report_all(FEW_NODES, FOR_EVER)
    figures = {"from nothing, s": time.perf_counter() - start, "resident before, MiB": resident()}
    reconciled, lengths = 0, []

    async def consume() -> None:
        nonlocal reconciled
        while True:
            reconciled += await cluster.work()
            await asyncio.sleep(0)

    consumer = asyncio.create_task(consume())
    chance, made, start = random.Random(1), 0, time.perf_counter()
    while made < CHANGES_PER_SECOND * SECONDS:
        for _ in range(int((time.perf_counter() - start) * CHANGES_PER_SECOND) - made):
            number, pods = chance.randrange(count), chance.randint(1, load.ENDPOINTS)
            cluster.put(EndpointSlice, load.endpoint_slice(number, pods))
            made += 1
        lengths.append(len(cluster.queue))
        await asyncio.sleep(0.002)
    took, left = time.perf_counter() - start, len(cluster.queue)
    consumer.cancel()
    quarter = len(lengths) // 4
    return figures | {
        "changes/s": made / took,
        "reconciles/s": reconciled / took,
        "longest queue": max(lengths),
        "queue in the first quarter, mean": statistics.mean(lengths[:quarter]),
        "queue in the last quarter, mean": statistics.mean(lengths[-quarter:]),
        "queue at the end": left,
        "resident after, MiB": resident(),
    }


@pytest.mark.parametrize("count", SERVICES_COUNTS)
def test_a_thousand_changes_a_second(count: int) -> None:
    figures = asyncio.run(feed(count))
    load.tell(f"{CHANGES_PER_SECOND} changes/s for {SECONDS:g} s, {count} VirtualServices", figures)


async def fold_reports() -> dict[str, float]:
    """Two rounds of reports on one plan: real servers have their role, directors send to all. Times are a CPU's."""
    cluster = Cluster(MANY_NODES)
    await cluster.settle()
    await cluster.report_all(MANY_NODES, 1)
    cluster.put(Service, load.service(0))
    cluster.put(EndpointSlice, load.endpoint_slice(0, MANY_NODES, MANY_NODES))
    cluster.put(VirtualService, load.virtual_service(0, forwarding="DR"))
    await cluster.settle()
    item = Item(Work.SERVICE, SHOP, load.name_of(0))
    figures = {}
    for what in ("roles", "directed"):
        observed, taken, folded = cluster.version, [], []
        for number in range(MANY_NODES):
            taken.append(cluster.report(number, observed) * 1e6)
            start = time.thread_time()
            cluster.work_out(item)
            folded.append((time.thread_time() - start) * 1e6)
        await cluster.settle()
        figures[f"{what}: a report taken in, median us"] = statistics.median(taken)
        figures[f"{what}: the reconcile after it, median us"] = statistics.median(folded)
    status = cluster.store.snapshot.status(Key(SHOP, load.name_of(0)))
    assert status is not None
    assert status.nodes.desired == MANY_NODES
    return figures


def test_reports_of_many_nodes_are_folded() -> None:
    figures = asyncio.run(fold_reports())
    load.tell(f"reports of {MANY_NODES} nodes on one plan", figures)
