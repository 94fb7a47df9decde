"""The role that a real server takes on before directors send by another way: beside the one it has, never instead."""

from msgspec.structs import replace

from ipvs_agent.desired.server import serve
from ipvs_agent.desired.share import Context, Finding, Reason, Severity, Share
from ipvs_agent.rows import HopRow, KernelState, NftRow, SysctlRow
from ipvs_api.plan import PlanPath, VirtualServicePlanSpec


def prepare(plan: VirtualServicePlanSpec, path: PlanPath, context: Context, share: Share) -> None:
    """Add what this host needs to take the plan's traffic by ``path`` too."""
    then = Share()
    serve(replace(plan, **{name: getattr(path, name) for name in path.__struct_fields__}), context, then)
    share.neighbours |= then.neighbours
    share.findings.extend(finding for finding in then.findings if finding not in share.findings)
    now, new = share.server, then.server
    for key, hop in new.hops.items():
        now.hops[key] = _both_ways(now.hops.get(key, hop), hop)
    for path_name, switch in new.sysctls.items():
        now.sysctls[path_name] = _higher(now.sysctls.get(path_name, switch), switch)
    busy = set()
    for element, row in new.elements.items():
        before = now.elements.setdefault(element, row)
        if before == row:
            continue
        if element.set.startswith("mss"):
            now.elements[element] = NftRow(min(before.value, row.value))
        else:
            busy.add(str(element.element[1]))
    if busy:
        share.findings.append(_gateway_busy(plan, path, sorted(busy)))
    for name in ("links", "fou", "routes", "rules", "addresses"):
        _add(name, new, now)


def _add(table: str, new: KernelState, now: KernelState) -> None:
    """Keys of these tables say all there is to say: equal ones have equal rows."""
    setattr(now, table, {**getattr(new, table), **getattr(now, table)})


def _both_ways(now: HopRow, new: HopRow) -> HopRow:
    """Taken from the directors' MACs and out of their tunnels alike."""
    return now._replace(
        macs=tuple(sorted({*now.macs, *new.macs})),
        links=tuple(sorted({*now.links, *new.links})),
    )


def _higher(now: SysctlRow, new: SysctlRow) -> SysctlRow:
    return max(now, new, key=lambda row: row.value)


def _gateway_busy(plan: VirtualServicePlanSpec, path: PlanPath, servers: list[str]) -> Finding:
    """New flows bear the director's MAC under both plans, so they can have one way back only."""
    return Finding(
        Reason.GATEWAY_BUSY,
        f"real server {', '.join(servers[:10])}: answers through gateway {', '.join(plan.gateways)} until the "
        f"directors send by way of {', '.join(path.gateways)}; connections opened in the moment between may have to be "
        "repeated",
        severity=Severity.NOTE,
    )
