"""Plans and hosts for the agent's unit tests: one director lb1, real servers rs1 and rs2 on its network."""

from ipvs_agent.desired.share import Context
from ipvs_agent.facts import Host, Interface, InterfaceAddress, Neighbour, Route, Routes
from ipvs_api.node import AnnouncementKind, NodeGroup
from ipvs_api.plan import (
    Owner,
    PlanAddress,
    PlanBackend,
    PlanDirector,
    PlanPort,
    PlanServer,
    ServerRole,
    VirtualServicePlanSpec,
)
from ipvs_api.virtualservice import Forwarding, Protocol, Scheduler

VIP = "192.0.2.10"
DIP = "192.0.2.1"
DIRECTOR_MAC = "02:00:00:00:00:01"


def host(node: str = "lb1", address: str = DIP, **more: object) -> Host:
    eth0 = Interface(2, "eth0", "02:00:00:00:00:99", addresses=(InterfaceAddress(address, 24),))
    routes = Routes((Route("192.0.2.0/24", "eth0"), Route("0.0.0.0/0", "eth0", "192.0.2.254")))
    facts = {"interfaces": {"eth0": eth0}, "routes": routes, **more}
    return Host(node, "boot", "7.2", **facts)  # type: ignore[arg-type]


def context(node: str = "lb1", address: str = DIP, *, director: bool = True, **more: object) -> Context:
    group = NodeGroup("default", ("192.0.2.0/28",), director=director, announcement=AnnouncementKind.STATIC)
    return Context(host(node, address, **more), {"default": group})


def real_server(**more: object) -> Context:
    known = {DIP: Neighbour("eth0", DIRECTOR_MAC, reachable=True)}
    return context("rs1", "192.0.2.21", director=False, **{"neighbours": known, **more})


def hosts(*last: int) -> tuple[PlanBackend, ...]:
    return tuple(
        PlanBackend(ServerRole.HOST, (PlanServer(f"192.0.2.{n}", (80,)),), f"rs{n - 20}", (f"192.0.2.{n}",))
        for n in last
    )


def plan(forwarding: Forwarding = Forwarding.NAT, **more: object) -> VirtualServicePlanSpec:
    fields: dict[str, object] = {
        "virtual_service": Owner("default", "web"),
        "director_group": "default",
        "addresses": (PlanAddress(VIP, "lb1"),),
        "ports": (PlanPort("http", Protocol.TCP, 80),),
        "forwarding": forwarding,
        "scheduler": Scheduler.WRR,
        "directors": (PlanDirector("lb1", (DIP,)),),
        "backends": hosts(21, 22),
    }
    return VirtualServicePlanSpec(**{**fields, **more})  # type: ignore[arg-type]
