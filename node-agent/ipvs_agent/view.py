"""What ``ipvs-agent status`` shows, asked of the running agent or worked out from the kernel and the last plans."""

import logging
from pathlib import Path

import msgspec

from ipvs_agent.agent import Agent, wall_clock
from ipvs_agent.local_socket import ask
from ipvs_agent.services import (
    FWD_DIRECT,
    FWD_LOCAL,
    FWD_NAT,
    FWD_TUNNEL,
    destination_key,
    destinations_of,
    unpack_destination,
    unpack_head,
    unpack_key,
)
from ipvs_agent.slices import as_objects
from ipvs_agent.sources.source import Judgement
from ipvs_agent.store import Store
from ipvs_agent.words import name_service
from ipvs_api.meta import ObjectMeta
from ipvs_api.node import IPVSNode
from ipvs_api.plan import VirtualServicePlan
from ipvs_api.virtualservice import VirtualServiceStatus
from ipvs_planner.compiled import Compiled, Outcome
from ipvs_planner.fold import fold
from ipvs_planner.index import Key
from ipvs_planner.reasons import Finding, Reason

SHOWN_SERVICES = 1000
"""IPVS services whose counters one status shows at the most: each costs a request."""

_FORWARDING = {FWD_NAT: "NAT", FWD_LOCAL: "local", FWD_TUNNEL: "TUN", FWD_DIRECT: "DR"}


class ServerView(msgspec.Struct, frozen=True):
    """One destination as the kernel has it. ``scheduled``: connections since it was added, as of up to two seconds
    ago."""

    address: str
    port: int
    forwarding: str
    weight: int
    active: int
    inactive: int
    scheduled: int = 0


class KernelView(msgspec.Struct, frozen=True):
    """One IPVS service of ours as the kernel has it."""

    name: str
    address: str
    port: int
    protocol: str
    scheduler: str
    servers: tuple[ServerView, ...]


class ServiceView(msgspec.Struct, frozen=True, rename="camel"):
    """A VirtualService as far as a node knows it: everything but its ``spec``, which plans stand for."""

    metadata: ObjectMeta
    status: VirtualServiceStatus


class View(msgspec.Struct, frozen=True):
    """``running``: an agent answered; otherwise this is what was found without one.

    ``away``: why no news of plans can come, and since when; empty while they can.
    """

    running: bool
    node: IPVSNode
    plans: tuple[VirtualServicePlan, ...]
    services: tuple[ServiceView, ...]
    kernel: tuple[KernelView, ...]
    errors: tuple[str, ...]
    away: str = ""


def ask_agent(path: Path) -> View | None:
    """The running agent's view; None where none is running."""
    answer = ask(path, "status")
    return msgspec.json.decode(answer, type=View) if answer is not None else None


def look(store: Store) -> View:
    """The view without an agent: the last plans, compared with the kernel; nothing is written."""
    logging.disable(logging.WARNING)
    spec_node = store.node_name()
    agent = Agent(spec_node, None, store)
    with agent.looking():
        agent.converger.preview()
        agent.make_report()
        return make_view(agent, running=False)


def make_view(agent: Agent, *, running: bool) -> View:
    """From what an agent knows and the kernel's counters now."""
    asked = {**dict(agent.store.plans()), **agent.intent.refused}
    plans = {Key(*owner.split("/", 1)): as_objects(plan) for owner, plan in asked.items()}
    judged = {Key(*key): found for key, found in agent.source.judgements().items()} if agent.source is not None else {}
    services = []
    for key in sorted(plans.keys() | {key for key, found in judged.items() if found.refusals}):
        compiled = _compiled(key, plans.get(key, ()), judged.get(key, _PLANNED))
        status = fold(compiled, {agent.node: agent.status}, None, wall_clock(), here=agent.node)
        services.append(ServiceView(ObjectMeta(key.name, key.namespace, generation=compiled.generation), status))
    node = IPVSNode(ObjectMeta(agent.node), agent.spec, agent.status)
    objects = tuple(plan for _, parts in sorted(plans.items()) for plan in parts)
    away = agent.source.away if agent.source is not None else ""
    return View(running, node, objects, tuple(services), tuple(_kernel(agent)), agent.errors, away)


_PLANNED = Judgement(Outcome.PLANNED)


def _compiled(key: Key, plans: tuple[VirtualServicePlan, ...], judgement: Judgement) -> Compiled:
    """What planning gave, as far as this host knows it."""
    generation = judgement.generation
    if generation is None:
        generation = plans[0].spec.virtual_service.generation if plans else 0
    refusals, notes = _findings(judgement.refusals), _findings(judgement.notes)
    return Compiled(key, Outcome(judgement.outcome), generation, plans, refusals, notes)


def _findings(words: tuple[tuple[str, str], ...]) -> tuple[Finding, ...]:
    return tuple(Finding(Reason(reason), message) for reason, message in words)


def _kernel(agent: Agent) -> list[KernelView]:
    keys = sorted(agent.converger.services.owned)[:SHOWN_SERVICES]
    rows = agent.kernel.ipvs.read(keys)
    activity = agent.kernel.ipvs.activity(keys)
    found = []
    for key in keys:
        if key not in rows:
            continue
        servers = []
        for packed in destinations_of(rows[key]):
            server, counts = unpack_destination(packed), activity.get(key, {}).get(destination_key(packed))
            forwarding = _FORWARDING.get(server.forwarding, str(server.forwarding))
            servers.append(
                ServerView(
                    server.address,
                    server.port,
                    forwarding,
                    server.weight,
                    counts.active if counts is not None else 0,
                    counts.inactive if counts is not None else 0,
                    counts.scheduled if counts is not None else 0,
                )
            )
        protocol, address, port = unpack_key(key)
        scheduler = unpack_head(rows[key]).scheduler
        found.append(KernelView(name_service(key), address, port, protocol, scheduler, tuple(servers)))
    return found
