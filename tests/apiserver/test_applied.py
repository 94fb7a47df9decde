"""What is written over what was written before, where little is left of it."""

from typing import Any

import pytest
from msgspec.structs import replace
from tests.apiserver.world import World

from ipvs_api.directorgroup import AddressTotals, DirectorGroupStatus, KernelSettings, Timeouts
from ipvs_api.meta import ObjectMeta
from ipvs_api.node import IPVSNodeSpec, IPVSNodeStatus, NodeGroup, ReportCounts
from ipvs_api.plan import Owner, PlanAddress, PlanPath, PlanPort, VirtualServicePlanSpec
from ipvs_api.virtualservice import (
    Forwarding,
    NodeCount,
    NodeCounts,
    Persistence,
    Protocol,
    RealServerCounts,
    Scheduler,
    Summary,
    TunnelSpec,
    TunnelType,
    VirtualServiceStatus,
)
from ipvs_operator.writer import carry_out
from ipvs_planner.writes import Verb, Write

PLAN = VirtualServicePlanSpec(
    virtual_service=Owner("shop", "web"),
    director_group="default",
    addresses=(PlanAddress("192.0.2.10"),),
    ports=(PlanPort("http", Protocol.TCP, 80),),
    forwarding=Forwarding.TUN,
    scheduler=Scheduler.WLC,
    directors=(),
    backends=(),
)
GUE, IPIP = TunnelSpec(TunnelType.GUE, 6080), TunnelSpec()
NODE = IPVSNodeSpec((NodeGroup("default", ("192.0.2.0/28",)),))
LAX, TIMED, SILENT = KernelSettings(sloppy_tcp=True), KernelSettings(timeouts=Timeouts(900)), KernelSettings()

SPECS: dict[str, tuple[str, Any, Any]] = {
    "another tunnel": ("VirtualServicePlan", replace(PLAN, tunnel=GUE), replace(PLAN, tunnel=IPIP)),
    "another tunnel to come": (
        "VirtualServicePlan",
        replace(PLAN, prepare=PlanPath(Forwarding.TUN, tunnel=GUE)),
        replace(PLAN, prepare=PlanPath(Forwarding.TUN, tunnel=IPIP)),
    ),
    "persistence for as long as by default": (
        "VirtualServicePlan",
        replace(PLAN, persistence=Persistence(60)),
        replace(PLAN, persistence=Persistence()),
    ),
    "no persistence": ("VirtualServicePlan", replace(PLAN, persistence=Persistence(60)), PLAN),
    "the kernel's own settings": ("IPVSNode", replace(NODE, kernel=LAX), replace(NODE, kernel=SILENT)),
    "the kernel's own timeouts": ("IPVSNode", replace(NODE, kernel=TIMED), replace(NODE, kernel=SILENT)),
    "no group at all": ("IPVSNode", NODE, IPVSNodeSpec()),
}
STATUSES: dict[str, tuple[str, Any, Any]] = {
    "nobody directs or serves any more": (
        "VirtualService",
        VirtualServiceStatus(
            directors=NodeCount(1, 1),
            real_servers=RealServerCounts(1, 1),
            nodes=NodeCounts(1, 1),
            summary=Summary("192.0.2.10", "1/1", "1/1"),
        ),
        VirtualServiceStatus(
            directors=NodeCount(), real_servers=RealServerCounts(), nodes=NodeCounts(), summary=Summary()
        ),
    ),
    "no addresses": (
        "DirectorGroup",
        DirectorGroupStatus(addresses=AddressTotals(16, 1)),
        DirectorGroupStatus(addresses=AddressTotals()),
    ),
    "no plans": (
        "IPVSNode",
        IPVSNodeStatus(counts=ReportCounts(plans=1, programmed=1)),
        IPVSNodeStatus(counts=ReportCounts()),
    ),
}


@pytest.mark.parametrize("change", SPECS)
def test_a_spec_is_stored_as_it_was_meant(world: World, change: str) -> None:
    kind, *specs = SPECS[change]
    meta = ObjectMeta("one", world.system if kind == "VirtualServicePlan" else "")
    for spec in specs:
        stored: Any = carry_out(world.api, Write(Verb.APPLY, kind, meta, spec=spec), lambda: True)
        assert stored.spec == spec


@pytest.mark.parametrize("change", STATUSES)
def test_a_status_is_stored_as_it_was_meant(world: World, change: str) -> None:
    kind, *statuses = STATUSES[change]
    world.group("one")
    world.virtual_service("one")
    carry_out(world.api, Write(Verb.APPLY, "IPVSNode", ObjectMeta("one"), spec=NODE), lambda: True)
    meta = ObjectMeta("one", world.namespace if kind == "VirtualService" else "")
    for status in statuses:
        stored: Any = carry_out(world.api, Write(Verb.STATUS, kind, meta, status=status), lambda: True)
        assert replace(stored.status, conditions=()) == status
