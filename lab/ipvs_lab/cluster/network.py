"""The networks of a cluster: a site that speaks IPv6 too, knows the way to pods, and is reached from outside."""

from ipvs_lab.cluster.plan import ADDRESS6, API_SERVICE, Host, client_routes, pod_routes
from ipvs_lab.kubernetes.ports import free_ports
from ipvs_lab.site import ADDRESS, BRIDGE, BRIDGE_OPTIONS, Nic, Site


class ClusterSite(Site):
    """The control plane runs in it, behind `prefix`, and every host of the cluster has its cables into it.

    Its own address is in the servers' network only. What is between that and the clients' goes through the router,
    commands for the client too.
    """

    def __init__(self, hosts: tuple[Host, ...]) -> None:
        super().__init__()
        self._hosts = {host.name: host for host in hosts}
        further = {at.lan.bridge for host in hosts for at in host.feet} - {BRIDGE}
        self.batch(
            [
                f"addr add {ADDRESS6}/64 dev {BRIDGE} nodad",
                f"addr add {API_SERVICE}/32 dev lo",
                *(f"link add name {bridge} up {BRIDGE_OPTIONS}" for bridge in further),
                *pod_routes(hosts),
                *client_routes(hosts),
            ]
        )
        self._nics = {host.name: self.plug(*(at.lan.bridge for at in host.feet)) for host in hosts}

    def nic(self, host: str) -> Nic:
        """The host's network cards: the same for each kernel that the host boots."""
        return self._nics[host]

    def link(self, host: str, state: str, network: str = "") -> None:
        """Set the bridges' ends of a host's cables `up` or `down`: of all, or of the one into `network`."""
        for at, end in zip(self._hosts[host].feet, self._nics[host].ends, strict=True):
            if network in ("", at.lan.name):
                self.run("ip", "link", "set", end, state)

    def answer_as_service(self, port: int) -> None:
        """The API server's own Service answers without a kube-proxy: nodes have no other way to it than through us.
        Who has a kube-proxy never gets here."""
        listen = f"TCP4-LISTEN:443,bind={API_SERVICE},reuseaddr,backlog=128,fork"
        self._relay(self.prefix, listen, f"TCP4:{ADDRESS}:{port}", "service.near")

    def expose(self, port: int) -> int:
        """From now on, what listens on ADDRESS:`port` answers on this machine's own 127.0.0.1, on the port that is
        returned."""
        meeting = self.directory / f"{port}.exposed"
        (outside,) = free_ports(1)
        self._relay(self.prefix, f"UNIX-LISTEN:{meeting},fork", f"TCP4:{ADDRESS}:{port}", f"{port}.inner")
        listen = f"TCP4-LISTEN:{outside},bind=127.0.0.1,reuseaddr,backlog=128,fork"
        self._relay((), listen, f"UNIX-CONNECT:{meeting}", f"{port}.outer")
        return outside
