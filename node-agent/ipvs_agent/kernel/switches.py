"""Everything on a host that is one value for all: sysctls, and IPVS's time-outs, which have no path below
``/proc/sys``.

The time-outs (``ipvsadm --set``) are read and written by netlink, under names of their own beside the sysctls' paths,
so that they too are only changed when wanted, and get the values they had before us back.
"""

from collections.abc import Iterable, Sequence

from ipvs_agent.kernel.ipvs import IpvsTable
from ipvs_agent.kernel.netlink import NetlinkError
from ipvs_agent.kernel.sysctls import SysctlsTable
from ipvs_agent.rows import TIMEOUTS, SysctlRow
from ipvs_agent.table import Change, Outcome, Verdict


class SwitchesTable:
    """A ``Table[str, SysctlRow]`` over both."""

    def __init__(self, sysctls: SysctlsTable, ipvs: IpvsTable) -> None:
        self._sysctls, self._ipvs = sysctls, ipvs

    def is_of_nothing(self, path: str) -> bool:
        """True for a switch of an interface that does not exist."""
        return path not in TIMEOUTS and self._sysctls.is_of_nothing(path)

    def read(self, keys: Iterable[str] | None = None) -> dict[str, SysctlRow]:
        """Values of these switches; nothing without keys, since none is anybody's own."""
        wanted = list(keys or ())
        rows = self._sysctls.read(path for path in wanted if path not in TIMEOUTS)
        if any(path in TIMEOUTS for path in wanted):
            now = dict(zip(TIMEOUTS, self._ipvs.timeouts(), strict=True))
            rows |= {path: SysctlRow(now[path]) for path in wanted if path in TIMEOUTS}
        return rows

    def write(self, changes: Sequence[Change[str, SysctlRow]]) -> list[Outcome[str]]:
        """As ``Table.write``. Zero leaves a time-out as it is (``ip_vs_set_timeout``)."""
        plain = [change for change in changes if change.key not in TIMEOUTS]
        outcomes = self._sysctls.write(plain)
        timed = {
            change.key: change.new.value for change in changes if change.key in TIMEOUTS and change.new is not None
        }
        if timed:
            verdict, message = Verdict.DONE, ""
            now = self._ipvs.timeouts()
            values = [timed.get(name, 0) for name in TIMEOUTS]
            try:
                self._ipvs.set_timeouts(type(now)(*values))
            except NetlinkError as error:
                verdict, message = Verdict.FAILED, f"{error}; seconds from 1 to the kernel's limit are possible"
            outcomes += [Outcome(name, verdict, message) for name in timed]
        return outcomes
