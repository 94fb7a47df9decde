"""What a DirectorGroup sets for a director's whole IPVS: one value a node, worked out by the planner."""

from ipvs_agent.rows import TIMEOUTS, KernelState, SysctlRow
from ipvs_api.directorgroup import KernelSettings
from ipvs_api.node import IPVSNodeSpec

_SWITCHES = {
    "conn_reuse_mode": "conn_reuse_mode",
    "schedule_icmp": "schedule_icmp",
    "sloppy_tcp": "sloppy_tcp",
    "sloppy_sctp": "sloppy_sctp",
    "pmtu_discovery": "pmtu_disc",
}
"""Field of ``KernelSettings`` and name below ``net/ipv4/vs`` (Documentation/networking/ipvs-sysctl.rst)."""


def settings(spec: IPVSNodeSpec) -> KernelState:
    """Rows for a node that directs at least one group; nothing is set where nobody asked for it."""
    state = KernelState()
    if not any(group.director for group in spec.groups):
        return state
    for field, name in _SWITCHES.items():
        value = getattr(spec.kernel, field)
        if value is not None:
            state.sysctls[f"net/ipv4/vs/{name}"] = SysctlRow(int(value))
    for path, seconds in zip(TIMEOUTS, _seconds(spec.kernel), strict=True):
        if seconds:
            state.sysctls[path] = SysctlRow(seconds)
    return state


def _seconds(kernel: KernelSettings) -> tuple[int, int, int]:
    return kernel.timeouts.tcp_seconds, kernel.timeouts.tcp_fin_seconds, kernel.timeouts.udp_seconds
