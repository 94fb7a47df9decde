"""From one plan to this host's share of it."""

from functools import lru_cache

from ipvs_agent.desired.director import direct
from ipvs_agent.desired.prefixes import prefix_findings
from ipvs_agent.desired.prepare import prepare
from ipvs_agent.desired.server import serve
from ipvs_agent.desired.share import Context, Finding, Reason, Severity, Share, is_director
from ipvs_api.addresses import AddressRanges
from ipvs_api.plan import FEATURES, VirtualServicePlanSpec


@lru_cache(maxsize=64)
def _ranges(texts: tuple[str, ...]) -> AddressRanges:
    """Parsed once for all plans of a group."""
    return AddressRanges.parse(texts)


def desired(plan: VirtualServicePlanSpec, context: Context) -> Share:
    """What ``plan`` (its slices put together) asks of this host. A finding that blocks leaves nothing to program.

    A withdrawal is never refused, since what a refused plan leaves in force is the one before: where it cannot be
    understood or the host may not have the VIP any more, all that is there drains.
    """
    share = Share()
    group = context.groups.get(plan.director_group)
    ranges = _ranges(group.addresses) if group is not None else AddressRanges(())
    outside = [entry.address for entry in plan.addresses if entry.address not in ranges]
    missing = sorted(set(plan.requires) - FEATURES)
    if plan.withdrawn and (missing or outside or group is None):
        return share
    if missing:
        share.findings.append(
            Finding(
                Reason.FEATURE_UNKNOWN,
                f"the plan needs {', '.join(missing)}, which this agent does not know; upgrade the agent on this node",
                severity=Severity.BLOCK,
            )
        )
        return share
    if outside or group is None:
        share.findings.append(
            Finding(
                Reason.ADDRESS_OUTSIDE_GROUP,
                f"VIP {', '.join(outside) or 'none'} is outside the addresses of DirectorGroup {plan.director_group} "
                f"({', '.join(group.addresses) if group is not None else 'not known on this node'}); "
                "nothing is programmed for it here",
                severity=Severity.BLOCK,
            )
        )
        return share
    if group.director and is_director(plan, context.node) and not plan.withdrawn:
        direct(plan, group, context, share)
    serve(plan, context, share)
    if plan.prepare is not None:
        prepare(plan, plan.prepare, context, share)
    if not (share.director.is_empty() and share.server.is_empty()):
        share.findings.extend(prefix_findings(plan, context))
    return share
