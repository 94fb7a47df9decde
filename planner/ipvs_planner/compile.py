"""From one VirtualService to its plans, or to the reasons why not. Pure and total."""

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from ipvs_api.labels import node_label, plan_name
from ipvs_api.meta import ObjectMeta
from ipvs_api.plan import (
    Owner,
    PlanAddress,
    PlanPort,
    VirtualServicePlan,
    VirtualServicePlanSpec,
)
from ipvs_api.virtualservice import Forwarding, Persistence, ReturnPath, TunnelSpec
from ipvs_planner.assign import Assignment, assign, to_claim
from ipvs_planner.backing import behind_service
from ipvs_planner.claims import Claims
from ipvs_planner.compiled import Compiled, Outcome, ServerCounts, refused
from ipvs_planner.contention import gateway
from ipvs_planner.groups import Directors
from ipvs_planner.index import Key
from ipvs_planner.intake import Intake
from ipvs_planner.notes import notes_on, plan_scheduler
from ipvs_planner.refusals import gateway_refusals, group_refusals, held_refusals, server_refusals
from ipvs_planner.servers import Placed, RealServers, concerned, place, slices
from ipvs_planner.snapshot import Snapshot


def compile_virtual_service(snapshot: Snapshot, key: Key) -> Compiled:
    """What the nodes must do for ``key`` as things are. The same snapshot gives the same result, byte for byte.

    A key that is not there is Withdrawn, without words.
    """
    intake = snapshot.service(key)
    if intake is None:
        return Compiled(key, Outcome.WITHDRAWN)
    findings = [*intake.findings, *group_refusals(snapshot, key, intake.group)]
    findings += held_refusals(snapshot, key, intake.group)
    if findings:
        return refused(key, intake.generation, tuple(findings))
    directors = snapshot.directors[intake.group]
    assignment = assign(snapshot, key, intake)
    intake = replace(intake, vips=assignment.vips)
    servers = _real_servers(snapshot, key, intake, directors)
    findings += assignment.findings
    findings += servers.refusals
    findings += gateway_refusals(snapshot, key, intake)
    if findings:
        claiming = to_claim(snapshot, assignment, ()) if not assignment.findings else ()
        return refused(key, intake.generation, tuple(findings), claiming)
    plans = tuple(_plans(snapshot, key, intake, directors, assignment, servers.served))
    return Compiled(
        key=key,
        outcome=Outcome.PLANNED,
        generation=intake.generation,
        claiming=to_claim(snapshot, assignment, {node for plan in plans for node in concerned(plan.spec)}),
        plans=plans,
        notes=(*assignment.notes, *servers.notes, *notes_on(intake, servers.placed, servers.served)),
        claims=Claims(intake.group, intake.vip_endpoints(), servers.return_ends(intake)),
        servers=servers.counts,
    )


def _real_servers(snapshot: Snapshot, key: Key, intake: Intake, directors: Directors) -> RealServers:
    """Those of its Service, or those that it names itself."""
    if intake.service:
        return behind_service(snapshot, key, intake, directors.nodes)
    placed = place(snapshot, intake, directors.nodes)
    served = [entry for entry in placed if intake.forwarding is Forwarding.NAT or entry.reachable]
    refusals = tuple(server_refusals(snapshot, intake, placed, directors.nodes))
    return RealServers(placed, served, ServerCounts(len(served)), refusals)


def _plans(
    snapshot: Snapshot,
    key: Key,
    intake: Intake,
    directors: Directors,
    assignment: Assignment,
    served: Sequence[Placed],
) -> Iterator[VirtualServicePlan]:
    owner = Owner(key.namespace, key.name, intake.uid, intake.generation)
    families = dict.fromkeys(len(vip.packed) for vip in intake.vips)
    gateways = [gateway(snapshot, intake.group, family) for family in families] if intake.routed else []
    addresses = tuple(
        PlanAddress(vip.text, directors.holding(turn))
        for vip, turn in zip(assignment.vips, assignment.turns, strict=True)
    )
    ports = tuple(PlanPort(port.name, port.protocol, port.number) for port in intake.ports)
    scheduler = plan_scheduler(intake, served)
    persistence = Persistence(*intake.persistence) if intake.persistence is not None else None
    parts = tuple(slices(served))
    for number, backends in enumerate(parts):
        spec = VirtualServicePlanSpec(
            virtual_service=owner,
            director_group=intake.group,
            addresses=addresses,
            ports=ports,
            forwarding=intake.forwarding,
            scheduler=scheduler,
            directors=directors.plan,
            backends=backends,
            slice=number,
            slices=len(parts),
            return_path=ReturnPath.GATEWAY if intake.routed else ReturnPath.MASQUERADE,
            gateways=tuple(gateways),
            tunnel=TunnelSpec(*intake.tunnel),
            scheduler_flags=intake.scheduler_flags,
            persistence=persistence,
            one_packet=intake.one_packet,
            allowed_sources=intake.sources,
            drain_timeout_seconds=intake.drain_timeout_seconds,
        )
        meta = ObjectMeta(
            name=plan_name(key.namespace, key.name, number),
            namespace=snapshot.plan_namespace,
            labels={node_label(node): "" for node in sorted(concerned(spec))},
        )
        yield VirtualServicePlan(metadata=meta, spec=spec)
