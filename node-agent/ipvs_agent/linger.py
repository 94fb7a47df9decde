"""What a changed plan leaves behind for a while, so that established connections go on.

A director's rows for a service that the plan dropped stay until its real servers have drained; a real server's role
stays for the drain timeout, since hosts that plan for themselves cannot know when the directors have let go; where a
cluster's plan has said that they have, it goes at once, and a director's own second hop after ``HANDOVER``. What would
be wrong at once never lingers: a VIP that another director holds now, a source that is no longer allowed.
"""

from dataclasses import dataclass, replace
from typing import Any

from ipvs_agent.ledger import TABLES
from ipvs_agent.rows import KernelState, NftKey, NftRow, ServiceKey, ServiceRow
from ipvs_agent.services import HEAD_SIZE, Key, unpack_key
from ipvs_api.plan import ServerRole, VirtualServicePlanSpec

HANDOVER = 5.0
"""Seconds for which a director's second hop outlives its last real server: other directors may not know yet. No longer,
since it takes what others send that is not their choice either (their hosts' own clients), for which this director has
other real servers. What is established goes on by connection tracking."""

FLOW_SETS = ("open", "restricted", "sources", "masquerade", "untracked", "tracked")
"""Sets whose elements begin with VIP, protocol and port of one service."""


@dataclass(frozen=True)
class Lingering:
    """Rows kept for ``owner`` until every service of ``services`` has drained and ``deadline`` has passed.

    ``deadline``: seconds of ``CLOCK_BOOTTIME``; 0 where only the services count.
    """

    owner: str
    state: KernelState
    services: frozenset[ServiceKey]
    deadline: float


def held_elsewhere(plan: VirtualServicePlanSpec, node: str) -> frozenset[str]:
    """VIPs that another director than ``node`` has on its client-facing interface."""
    return frozenset(entry.address for entry in plan.addresses if entry.holder not in ("", node))


def without_vips(entry: Lingering, vips: frozenset[str]) -> Lingering:
    """All of it but what would answer for ``vips``: their next director asks whether somebody does, and waits."""
    kept = {key: row for key, row in entry.state.addresses.items() if key.is_silent or key.address not in vips}
    return replace(entry, state=replace(entry.state, addresses=kept))


def combine(director: KernelState, server: KernelState) -> KernelState:
    """Both roles of one plan as one state; where both have a row, the director's stands."""
    return KernelState(**{name: {**getattr(server, name), **getattr(director, name)} for name in TABLES})


def without_destinations(row: ServiceRow) -> ServiceRow:
    """The service's head alone: what stays of it until its destinations have drained."""
    return row[:HEAD_SIZE]


def directors_let_go(before: VirtualServicePlanSpec, after: VirtualServicePlanSpec, node: str) -> bool:
    """``after`` drops ``node``'s real servers, to which ``before`` sent nothing any more.

    That is said once the directors' last connection to them is gone.
    """
    if any(backend.node == node for backend in after.backends):
        return False
    left = [each for each in before.backends if each.node == node and each.role is not ServerRole.MACHINE]
    return bool(left) and not any(backend.directed for backend in left)


def leave_behind(
    owner: str,
    old: tuple[KernelState, KernelState],
    new: tuple[KernelState, KernelState],
    now: float,
    drain_timeout: float,
    *,
    let_go: bool = False,
) -> list[Lingering]:
    """What lingers when ``owner``'s share turns from ``old`` to ``new``, each (director, server).

    ``let_go``: the directors have nothing left that needs the old role of a real server.
    """
    (old_director, old_server), (new_director, new_server) = old, new
    if old_director.is_empty() and old_server.is_empty():
        return []
    wanted = combine(new_director, new_server)
    gone = frozenset(old_director.ipvs.keys() - new_director.ipvs.keys())
    found = []
    director = _difference(old_director, wanted, lambda table, key: _director_lingers(table, key, gone, new_director))
    if gone:
        director.ipvs = {key: without_destinations(old_director.ipvs[key]) for key in gone}
    converted = _converted(old_director, new_director)
    if not director.is_empty():
        found.append(Lingering(owner, director, gone, 0.0))
    if not converted.is_empty():
        found.append(Lingering(owner, converted, frozenset(), now + drain_timeout))
    if let_go:
        return found
    held = {key.address for key in new_director.addresses if not key.is_silent}
    server = _difference(old_server, wanted, lambda table, key: not _names_address(table, key, held))
    if new_director.ipvs and server.hops:
        hops, server.hops = server.hops, {}
        found.append(Lingering(owner, KernelState(hops=hops), frozenset(), now + min(drain_timeout, HANDOVER)))
    if not server.is_empty():
        found.append(Lingering(owner, server, frozenset(), now + drain_timeout))
    return found


def _difference(old: KernelState, wanted: KernelState, keep: Any) -> KernelState:
    left = KernelState()
    for name in TABLES:
        have, still = getattr(old, name), getattr(wanted, name)
        getattr(left, name).update({key: row for key, row in have.items() if key not in still and keep(name, key)})
    return left


def _director_lingers(table: str, key: Any, gone: frozenset[ServiceKey], new: KernelState) -> bool:
    """Rows of services that are going; of the rest, whatever no service of the new share contradicts."""
    if not gone:
        return False
    going: set[Key] = {unpack_key(service) for service in gone}
    if table == "ipvs":
        return False
    if table == "addresses":
        return key.address in {service.address for service in going} and not _serves(new, key.address)
    if isinstance(key, NftKey) and key.set.rstrip("46") in FLOW_SETS:
        address, protocol, port = key.element[:3]
        return Key(str(protocol).upper(), str(address), int(port)) in going
    return True


def _serves(state: KernelState, address: str) -> bool:
    return any(unpack_key(service).address == address for service in state.ipvs)


def _converted(old: KernelState, new: KernelState) -> KernelState:
    """What established connections of another forwarding method need on the director.

    Flows that were masqueraded and will be untracked: they lose their translation without tracking. Next hops of DR:
    connections keep the method they began with.
    """
    left = KernelState()
    for key in old.elements:
        if key.set.startswith("masquerade") and NftKey(f"untracked{key.set[-1]}", key.element) in new.elements:
            left.elements[NftKey(f"tracked{key.set[-1]}", key.element)] = NftRow()
    left.routes = {key: row for key, row in old.routes.items() if key not in new.routes}
    left.rules = {key: row for key, row in old.rules.items() if key not in new.rules} if left.routes else {}
    return left


def _names_address(table: str, key: Any, addresses: set[str]) -> bool:
    """True for a silent VIP that this host now holds for all to see."""
    if table == "addresses":
        return key.address in addresses
    return table == "elements" and isinstance(key, NftKey) and key.set == "silent4" and key.element[0] in addresses
