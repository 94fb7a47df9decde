"""The network of a cluster: a site that speaks IPv6 too, knows the way to pods, and is reached from outside."""

from ipvs_lab.cluster.plan import ADDRESS6, API_SERVICE, Host, pod_routes
from ipvs_lab.kubernetes.ports import free_ports
from ipvs_lab.site import ADDRESS, BRIDGE, Nic, Site


class ClusterSite(Site):
    """The control plane runs in it, behind `prefix`, and every host of the cluster has a cable into it."""

    def __init__(self, hosts: tuple[Host, ...]) -> None:
        super().__init__()
        lines = [f"addr add {ADDRESS6}/64 dev {BRIDGE} nodad", f"addr add {API_SERVICE}/32 dev lo", *pod_routes(hosts)]
        self.run("ip", "-batch", "-", stdin="".join(line + "\n" for line in lines))
        self._nics = {host.name: self.plug() for host in hosts}

    def nic(self, host: str) -> Nic:
        """The host's network card: the same for each kernel that the host boots."""
        return self._nics[host]

    def link(self, host: str, state: str) -> None:
        """Set the bridge's end of a host's cable `up` or `down`."""
        self.run("ip", "link", "set", f"p{list(self._nics).index(host) + 1}", state)

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
