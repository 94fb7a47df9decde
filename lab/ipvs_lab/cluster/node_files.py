"""Configuration of what runs on a node, as text. JSON is YAML to a kubelet and kube-proxy."""

import json
from pathlib import Path

from ipvs_lab.cluster.images import PAUSE
from ipvs_lab.cluster.plan import DNS_SERVICE, Host

RUN = "/run/node"
CONTAINERD_SOCKET = f"{RUN}/containerd.sock"
CNI_DIRECTORY = f"{RUN}/cni"
PROGRAMS = f"{RUN}/bin"
RESIDENT = ("containerd-shim-runc-v2", "runc", "ptp", "host-local", "loopback", "portmap")
"""Programs that run for every pod, in the node's memory: from the machine's files they start four times as slowly."""


def containerd() -> str:
    """containerd's configuration. All it keeps is in the node's memory."""
    runtime = "plugins.'io.containerd.cri.v1.runtime'"
    images = "plugins.'io.containerd.cri.v1.images'"
    return f"""\
version = 3
root = "{RUN}/containerd"
state = "{RUN}/containerd-state"
[grpc]
address = "{CONTAINERD_SOCKET}"
[{images}]
snapshotter = "overlayfs"
[{images}.pinned_images]
sandbox = "{PAUSE}"
[{runtime}.cni]
bin_dirs = ["{PROGRAMS}"]
conf_dir = "{CNI_DIRECTORY}"
[{runtime}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{runtime}.containerd.runtimes.runc.options]
BinaryName = "{PROGRAMS}/runc"
SystemdCgroup = false
"""


def cni(host: Host) -> str:
    """Pods' networks: a cable each from the node, addresses by host-local, ports of the host by portmap."""
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    ranges = [[{"subnet": str(subnet)}] for subnet in host.pods]
    plugins: list[dict[str, object]] = [
        {
            "type": "ptp",
            "ipam": {"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": f"{RUN}/cni-data"},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}, "backend": "nftables"},
    ]
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}, indent=1)


def kubelet(authority: Path) -> str:
    """The kubelet's configuration: who asks it is known by certificate or token, and the API server says what they
    may."""
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "clusterDNS": [DNS_SERVICE],  # whoever wants names installs a server there
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            # A node that comes back is found not Ready once more; its next look would be ten seconds later.
            "nodeStatusUpdateFrequency": "2s",
            "nodeStatusReportFrequency": "5m",
            "evictionHard": {"memory.available": "10Mi"},
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "podLogsDir": f"{RUN}/pods",
            "serializeImagePulls": False,
        },
        indent=1,
    )


def kube_proxy(kubeconfig: Path, host: Host, mode: str) -> str:
    """kube-proxy's configuration in one of its modes."""
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "hostnameOverride": host.name,
            "mode": mode,
            "clusterCIDR": "10.244.0.0/16,fd00:10:244::/48",
        },
        indent=1,
    )
