"""The control plane of a cluster: kube-apiserver and etcd, and now the controllers and the scheduler too."""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ipvs_lab.cluster.plan import SERVICES
from ipvs_lab.kubernetes.control_plane import ControlPlane, end_process
from ipvs_lab.site import ADDRESS


class ClusterPlane(ControlPlane):
    """A control plane whose API server calls kubelets, with controllers and a scheduler: `start_controllers`."""

    def __init__(self, prefix: Sequence[str], programs: Path) -> None:
        super().__init__(listen=ADDRESS, prefix=prefix, programs=programs)
        self._controllers: list[subprocess.Popen[bytes]] = []

    def api_arguments(self) -> Sequence[str]:
        certificate, key = self._authority.issue("kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"])
        return (
            f"--service-cluster-ip-range={SERVICES}",
            "--enable-admission-plugins=NodeRestriction",
            f"--kubelet-client-certificate={certificate}",
            f"--kubelet-client-key={key}",
            "--allow-privileged=true",
        )

    def node_kubeconfig(self, node: str) -> Path:
        """What a node's kubelet is known by."""
        return self.kubeconfig(f"system:node:{node}", ["system:nodes"])

    def start_controllers(self) -> None:
        """The controllers and the scheduler; they wait for the API server by themselves."""
        key = self._authority.key("service-accounts")
        for name, *arguments in (
            (
                "kube-controller-manager",
                f"--service-account-private-key-file={key}",
                f"--root-ca-file={self.authority}",
                "--use-service-account-credentials=true",
            ),
            ("kube-scheduler",),
        ):
            kubeconfig = self.kubeconfig(f"system:{name}", ())
            same = (f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1")
            access = (
                f"--authentication-kubeconfig={kubeconfig}",
                f"--authorization-kubeconfig={kubeconfig}",
                "--authentication-skip-lookup=true",  # no front proxy is configured, and they would complain for ever
            )
            self._controllers.append(self._run(name, *same, *access, *arguments))

    def close(self) -> None:
        for process in self._controllers:
            end_process(process, signal.SIGKILL)
        super().close()
