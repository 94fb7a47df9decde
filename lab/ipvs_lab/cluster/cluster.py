"""A cluster, as its users have it: up, down, kubectl, commands on hosts, and verbs for what may happen to it."""

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
from ipvs_lab.cluster.images import own_images
from ipvs_lab.cluster.keeper import DOOR, SCRATCH
from ipvs_lab.cluster.plan import CLIENT, Spec, hosts
from ipvs_lab.cluster.state import DEFAULT_NAME, State, state_directory
from ipvs_lab.kernel import find_kernel, locked
from ipvs_lab.kubernetes.node_programs import find_node_programs
from ipvs_lab.kubernetes.programs import CLUSTER, find_programs
from ipvs_lab.machine import LabError
from ipvs_lab.progress import step
from ipvs_lab.scratch import remove_abandoned

REMOTE = Path(__file__).with_name("remote.py")
UP_SECONDS, DOWN_SECONDS = 180.0, 30.0


class Cluster:
    """One cluster by its name, whether it is up or not. Hosts are `node1`, `node2` and so on, and `client`."""

    def __init__(self, name: str = DEFAULT_NAME) -> None:
        self.state = State(name)
        self.name = name

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
        for host in hosts(self.spec().nodes):
            if host.pods and "podCIDRs" not in known[host.name]:
                subnets = [str(subnet) for subnet in host.pods]
                patch = json.dumps({"spec": {"podCIDR": subnets[0], "podCIDRs": subnets}})
                self.kubectl("patch", "node", host.name, f"--patch={patch}")

    def spec(self) -> Spec:
        """Of the cluster that is there; where none is, what it is by default."""
        return self.state.read_spec()[0] if self.state.holder() is not None else Spec()

    def _start(self, spec: Spec, archives: list[Path]) -> None:
        proxies_tools = tools.KUBE_PROXY if spec.kube_proxy in ("iptables", "ipvs") else ()
        tools.ensure((*tools.RUN, *tools.CONTROL_PLANE, *proxies_tools))
        proxy = ["kube-proxy"] if spec.kube_proxy != "none" else []
        find_kernel()  # told here if something must be made
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

    # Looking on.

    def status(self) -> dict[str, Any]:
        """Hosts with address, state (`on`, `off`, `paused`, `dead`), place of their logs and, of the dead, last words.
        LabError if not up."""
        answer: dict[str, Any] = self.state.ask("status")
        return answer

    @property
    def nodes(self) -> list[str]:
        return [name for name in self.status()["hosts"] if name != CLIENT]

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

    # Commands on hosts.

    def command(self, host: str, *argv: str, **variables: str) -> tuple[list[str], dict[str, str]]:
        """A command of this machine, and its environment, that runs `argv` as root on a host: input, output and exit
        status are the command's."""
        return self._request(host, {"argv": list(argv), "environment": variables})

    def _request(self, host: str, asked: dict[str, object]) -> tuple[list[str], dict[str, str]]:
        status = self.status()
        if host not in status["hosts"]:
            raise LabError(f"there is no host {host}: there are {', '.join(status['hosts'])}")
        if (state := status["hosts"][host]["state"]) != "on":
            raise LabError(f"{host} is {state}")
        request = json.dumps(asked | {"secret": status["secret"]})
        python = [sys.executable, "-I", "-S", str(REMOTE)]
        command = [*status["prefix"], *python, status["hosts"][host]["address"], str(DOOR)]
        return command, os.environ | {"IPVS_LAB_REQUEST": request}

    def exec(
        self, host: str, *argv: str, stdin: str = "", check: bool = True, timeout: float | None = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command as root on a host, to its end. LabError with what it said where it fails."""
        command, env = self.command(host, *argv)
        done = subprocess.run(
            command, env=env, input=stdin, capture_output=True, text=True, check=False, timeout=timeout
        )
        if check and done.returncode:
            raise LabError(f"{host}: {' '.join(argv)}: status {done.returncode}: {done.stderr.strip()}")
        return done

    def popen(self, host: str, *argv: str) -> "subprocess.Popen[str]":
        """Start a command as root on a host; killing what is returned ends it there too."""
        command, env = self.command(host, *argv)
        return subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def stop_program(self, host: str, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a node's `kubelet`, `containerd` or `kube-proxy`; pods go on."""
        self._ask_host(host, {"stop": name, "signal": int(how)})

    def start_program(self, host: str, name: str) -> None:
        """Start it again."""
        self._ask_host(host, {"start": name})

    def _ask_host(self, host: str, asked: dict[str, object]) -> None:
        command, env = self._request(host, asked)
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"{host}: {asked}: {done.stderr.strip()}")

    def load(self, archive: Path) -> None:
        """Put the images of an archive (docker-archive or OCI) onto all nodes that are on."""
        for name in self.nodes:
            if self.status()["hosts"][name]["state"] == "on":
                with step(f"loading {archive.name} onto {name}"):
                    self.exec(
                        name, "ctr", "--address=/run/node/containerd.sock", "--namespace=k8s.io",
                        "images", "import", "--local", str(archive.resolve()), timeout=300,
                    )  # fmt: skip

    # What may happen.

    def kill(self, host: str) -> None:
        """Cut a host's power: its kernel is gone, with all that was in its memory."""
        self.state.ask("kill", host)

    def boot(self, host: str) -> None:
        """Switch it on again, as empty as it was at first."""
        self.state.ask("boot", host)

    def pause(self, host: str) -> None:
        """A host hangs: no packet is answered, nothing is lost."""
        self.state.ask("pause", host)

    def resume(self, host: str) -> None:
        self.state.ask("resume", host)

    def unplug(self, host: str) -> None:
        """Pull a host's network cable."""
        self.state.ask("link", host, "down")

    def plug(self, host: str) -> None:
        self.state.ask("link", host, "up")

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
