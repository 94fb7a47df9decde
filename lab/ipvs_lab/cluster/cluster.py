"""A cluster, as its users have it: up, down, and its API."""

import contextlib
import json
import math
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

from ipvs_lab import tools
from ipvs_lab.cluster.hosts import Hosts
from ipvs_lab.cluster.images import own_images
from ipvs_lab.cluster.keeper import SCRATCH
from ipvs_lab.cluster.plan import Spec, hosts
from ipvs_lab.cluster.state import DEFAULT_NAME, state_directory
from ipvs_lab.config import BUILTIN
from ipvs_lab.kernel import find_kernel, locked
from ipvs_lab.kubernetes.node_programs import find_node_programs
from ipvs_lab.kubernetes.programs import CLUSTER, find_programs
from ipvs_lab.machine import LabError
from ipvs_lab.progress import step
from ipvs_lab.scratch import remove_abandoned

UP_SECONDS, DOWN_SECONDS = 180.0, 30.0


class Cluster(Hosts):
    """One cluster by its name, whether it is up or not."""

    def __init__(self, name: str = DEFAULT_NAME) -> None:
        super().__init__(name)

    # Up and down.

    def up(self, spec: Spec | None = None, images: Iterable[Path] = ()) -> None:
        """Make the cluster, or find it there; all nodes are Ready on return, and have the images. LabError if it is
        there and another was asked for. `spec`: by default the one that is there, or three nodes."""
        spec, archives = spec or self.spec(), [path.resolve() for path in images]
        if lacking := [str(path) for path in archives if not path.is_file()]:
            raise LabError(f"there is no image archive {', '.join(lacking)}")
        state_directory().mkdir(parents=True, exist_ok=True)
        with locked(state_directory() / f"{self.name}.starting"):
            made = self.state.holder() is None
            if made:
                self._start(spec, archives)
        if not made:
            if (found := self.spec()) != spec:
                raise LabError(
                    f"cluster {self.name} is up with {found}, not with {spec}: ipvs-lab down --name {self.name}"
                )
            for path in archives:
                self.load(path)
        self.await_ready()
        self._say_pods()

    def _say_pods(self) -> None:
        """Which addresses a node's pods have stands in its Node, where controllers or a network plugin would put it."""
        known = {node["metadata"]["name"]: node["spec"] for node in self.get("/api/v1/nodes")["items"]}
        for host in hosts(self.spec()):
            if host.pods and "podCIDRs" not in known[host.name]:
                subnets = [str(subnet) for subnet in host.pods]
                patch = json.dumps({"spec": {"podCIDR": subnets[0], "podCIDRs": subnets}})
                self.kubectl("patch", "node", host.name, f"--patch={patch}")

    def spec(self) -> Spec:
        """Of the cluster that is there; where none is, what it is by default."""
        return self.state.read_spec()[0] if self.state.holder() is not None else Spec()

    def _start(self, spec: Spec, archives: list[Path]) -> None:
        proxies_tools = tools.KUBE_PROXY if spec.kube_proxy in ("iptables", "ipvs") else ()
        modules_tools = tools.MODULES if spec.kernel != BUILTIN else ()
        tools.ensure((*tools.RUN, *tools.CONTROL_PLANE, *proxies_tools, *modules_tools))
        proxy = ["kube-proxy"] if spec.kube_proxy != "none" else []
        find_kernel(spec.kernel)  # told here if something must be made
        find_programs((*CLUSTER, *proxy))
        find_node_programs()
        own_images()
        shutil.rmtree(self.state.directory, ignore_errors=True)  # what a killed one left
        self.state.directory.mkdir(parents=True, mode=0o700)
        self.state.write_spec(spec, archives)
        with step(f"starting the control plane and {spec.nodes} kernels"):
            with self.state.log.open("ab") as log:
                subprocess.run(
                    [sys.executable, "-P", "-m", "ipvs_lab.cluster.keeper", self.name],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/", check=False,
                )  # fmt: skip
            self._await_verbs()

    def _await_verbs(self) -> None:
        """Until the keeper answers, or has ended."""
        deadline = time.monotonic() + UP_SECONDS
        while True:
            with contextlib.suppress(LabError):
                self.state.ask("status")
                return
            if self.state.holder() is None or time.monotonic() > deadline:
                told = [path.read_text() for path in (self.state.log, self.state.failure) if path.exists()]
                raise LabError(f"cluster {self.name} does not start: {''.join(told)[-4000:] or 'it was ended'}")
            time.sleep(0.1)

    def await_ready(self, nodes: Iterable[str] = ()) -> None:
        """Until these nodes (all, if none is named) are Ready. LabError with a kernel's last words where one died."""
        wanted = set(nodes) or set(self.nodes)
        deadline = time.monotonic() + UP_SECONDS
        with step("waiting for nodes") as progress:
            while lacking := wanted - self.ready_nodes():
                progress.update(f"{len(wanted) - len(lacking)} of {len(wanted)} are Ready")
                hosts = self.status()["hosts"]
                for name in lacking:
                    if hosts[name]["state"] == "dead":
                        raise LabError(f"{name}'s kernel ended:\n{hosts[name]['last_words']}")
                if time.monotonic() > deadline:
                    logs = ", ".join(hosts[name]["logs"] for name in sorted(lacking))
                    raise LabError(
                        f"not Ready after {UP_SECONDS:g} s: {', '.join(sorted(lacking))}; logs are in {logs}"
                    )
                time.sleep(0.2)

    def down(self) -> bool:
        """End it and remove all that is left of it; False if there was nothing."""
        there = self.state.directory.exists()
        if (holder := self.state.holder()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, signal.SIGTERM)
            deadline = time.monotonic() + DOWN_SECONDS
            while self.state.holder() == holder:
                if time.monotonic() > deadline:
                    os.kill(holder, signal.SIGKILL)  # its children end with it
                time.sleep(0.02)
        shutil.rmtree(self.state.directory, ignore_errors=True)
        for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}-*"):
            remove_abandoned(left)
        return there

    # The API.

    @property
    def kubeconfig(self) -> Path:
        """An administrator's, for programs of this machine."""
        return self.state.kubeconfig

    def ready_nodes(self) -> set[str]:
        """Nodes that have been Ready since they were switched on; none while the API server does not answer."""
        on = {name: host["since"] for name, host in self.status()["hosts"].items() if host["state"] == "on"}
        with contextlib.suppress(OSError):
            return {
                node["metadata"]["name"]
                for node in self.get("/api/v1/nodes")["items"]
                for condition in node["status"].get("conditions", ())
                if condition["type"] == "Ready"
                and condition["status"] == "True"
                # One that was switched off stays Ready until the controllers miss it.
                and datetime.fromisoformat(condition["lastHeartbeatTime"]).timestamp()
                >= on.get(node["metadata"]["name"], math.inf)
            }
        return set()

    def get(self, path: str) -> Any:
        """What the API server answers, in a hundredth of the time that kubectl takes. OSError where it does not."""
        known = json.loads(self.kubeconfig.read_text())
        cluster, user = known["clusters"][0]["cluster"], known["users"][0]["user"]
        secure = ssl.create_default_context(cafile=cluster["certificate-authority"])
        secure.load_cert_chain(user["client-certificate"], user["client-key"])
        direct = build_opener(ProxyHandler({}), HTTPSHandler(context=secure))
        with direct.open(cluster["server"] + path, timeout=10) as answer:
            return json.load(answer)

    def kubectl_command(self, *arguments: str) -> list[str]:
        """How to run kubectl as administrator."""
        return [str(Path(self.status()["programs"]) / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments]

    def kubectl_environment(self) -> dict[str, str]:
        """Nothing stands between us and the API server; what it offers is remembered with the cluster."""
        return os.environ | {"NO_PROXY": "*", "no_proxy": "*", "KUBECACHEDIR": str(self.state.directory / "kubectl")}

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run kubectl as administrator; LabError with what it said where it fails."""
        done = subprocess.run(
            self.kubectl_command(*arguments), input=stdin, capture_output=True, text=True, check=False,
            env=self.kubectl_environment(),
        )  # fmt: skip
        if check and done.returncode:
            raise LabError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done

    def stop_api(self) -> None:
        """The API server ends in good order; etcd and all controllers go on."""
        self.state.ask("stop_api")

    def kill_api(self) -> None:
        """The API server dies at once."""
        self.state.ask("kill_api")

    def start_api(self) -> None:
        """Ready on return."""
        self.state.ask("start_api")

    def pause_api(self) -> None:
        """The API server says nothing, with all connections open."""
        self.state.ask("pause_api")

    def resume_api(self) -> None:
        self.state.ask("resume_api")
