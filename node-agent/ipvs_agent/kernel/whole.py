"""The whole of one host's kernel as the agent uses it: every table, the host's facts, who else is at work."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ipvs_agent.facts import Host
from ipvs_agent.kernel import kube_proxy
from ipvs_agent.kernel.addresses import AddressesTable
from ipvs_agent.kernel.fou import FouTable
from ipvs_agent.kernel.host import read_host, resolve
from ipvs_agent.kernel.ipvs import IpvsTable
from ipvs_agent.kernel.links import LinksTable, read_links
from ipvs_agent.kernel.nft import NftTable
from ipvs_agent.kernel.routes import RoutesTable
from ipvs_agent.kernel.rtnetlink import route_socket
from ipvs_agent.kernel.rules import RulesTable
from ipvs_agent.kernel.switches import SwitchesTable
from ipvs_agent.kernel.sysctls import SysctlsTable

_DECISIVE = ("net/ipv4/conf/{}/rp_filter", "net/ipv6/conf/{}/force_forwarding", "net/ipv6/conf/{}/accept_ra")
"""Switches whose found values decide what is wanted, for each interface and ``all``."""


class Kernel:
    """Every table of the network namespace in which it is made. Used from one thread.

    FamilyMissingError (an OSError), in words, where the kernel has no IPVS.
    """

    def __init__(self, sysctl_root: Path = Path("/proc/sys")) -> None:
        self.ipvs = IpvsTable()
        self._socket = route_socket()
        self.links = LinksTable(self._socket)
        self.addresses = AddressesTable(self._socket)
        self.routes = RoutesTable(self._socket)
        self.rules = RulesTable(self._socket)
        self.fou = FouTable()
        self._sysctls = SysctlsTable(sysctl_root)
        self.sysctls = SwitchesTable(self._sysctls, self.ipvs)
        self.nft = NftTable()
        self._tables: dict[str, Any] = {
            "links": self.links,
            "addresses": self.addresses,
            "routes": self.routes,
            "rules": self.rules,
            "fou": self.fou,
            "sysctls": self.sysctls,
        }

    def close(self) -> None:
        """The kernel keeps what it has."""
        self.ipvs.close()
        self.fou.close()
        self.nft.close()
        self._socket.close()

    def table(self, name: str) -> Any:
        """One of the small tables by its name in ``KernelState``."""
        return self._tables[name]

    def host(self, node: str, neighbours: Iterable[str]) -> Host:
        """The host's facts now."""
        names = ["all", *(link.name for link in read_links(self._socket))]
        paths = [path.format(name) for name in names for path in _DECISIVE]
        return read_host(self._socket, node, neighbours, paths, self._sysctls)

    def resolve(self, addresses: Iterable[str]) -> None:
        """Make the kernel find out who these neighbours are; ``host`` tells later."""
        resolve(self._socket, addresses)

    def other_managers(self, ranges: Iterable[str]) -> list[str]:
        """Who else manages IPVS on this host and would take ours away, in words, with the remedy. ``ranges``: of our
        virtual addresses, as DirectorGroups write them."""
        if not any(link.name == kube_proxy.LINK for link in read_links(self._socket)):
            return []
        return list(filter(None, [kube_proxy.objection(kube_proxy.ask(), ranges)]))
