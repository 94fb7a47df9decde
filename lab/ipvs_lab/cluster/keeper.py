"""The process that holds a cluster: control plane, network and kernels are its children and end with it, however it
ends. It does what it is told through a socket, one thing after the other."""

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from ipvs_lab.cluster import node_files
from ipvs_lab.cluster.images import own_images
from ipvs_lab.cluster.network import ClusterSite
from ipvs_lab.cluster.plan import CLIENT, Host, Spec, hosts, interface
from ipvs_lab.cluster.plane import ClusterPlane
from ipvs_lab.cluster.state import State
from ipvs_lab.kernel import find_kernel, modules_of
from ipvs_lab.kubernetes.node_programs import find_node_programs
from ipvs_lab.kubernetes.programs import CLUSTER, find_programs
from ipvs_lab.machine import Job, LabError, Machine, environment
from ipvs_lab.scratch import Scratch

NODE_INIT = Path(__file__).with_name("node_init.py")
DOOR = 10_900  # the port of a host's door
SCRATCH = "ipvs-cluster"


class Keeper:
    """A cluster's parts. `start` makes them, `close` ends them."""

    def __init__(self, state: State, spec: Spec, images: list[Path]) -> None:
        self.state, self.spec = state, spec
        self.images = [*own_images(), *images]
        names = (*CLUSTER, *(["kube-proxy"] if spec.kube_proxy != "none" else []))
        self.programs, self.node_programs = find_programs(names), find_node_programs()
        self.kernel = find_kernel(spec.kernel)
        self.hosts = {host.name: host for host in hosts(spec)}
        self.secret = secrets.token_hex(16)
        self.machines: dict[str, Machine] = {}
        self.since: dict[str, int] = {}  # seconds since the epoch: when a host was switched on
        self.paused: set[str] = set()
        self._stack = contextlib.ExitStack()

    def start(self) -> None:
        """Everything; on return the API server is ready, and the nodes are on their way."""
        self.site = self._stack.enter_context(ClusterSite(tuple(self.hosts.values())))
        self.plane = ClusterPlane(self.site.prefix, self.programs)
        self._stack.callback(self.plane.close)
        self.plane.start_etcd()
        self._stack.callback(self._end_machines)
        for name in self.hosts:
            self.boot(name)
        self.plane.start_api()
        self.plane.start_controllers()
        self.site.answer_as_service(self.plane.port)
        self.outside = self.site.expose(self.plane.port)
        self._write_kubeconfig()

    def close(self) -> None:
        self._stack.close()

    def _end_machines(self) -> None:
        for machine in self.machines.values():
            machine.__exit__()

    def _write_kubeconfig(self) -> None:
        content = json.loads(self.plane.kubeconfig().read_text())
        content["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self.outside}"
        self.state.kubeconfig.touch(mode=0o600)
        self.state.kubeconfig.write_text(json.dumps(content, indent=1))

    # A host.

    def boot(self, name: str) -> None:
        """Switch a host on."""
        if name in self.machines:
            raise LabError(f"{name} is on already")
        host = self.hosts[name]
        directory = self.state.host(name)
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "host.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(self.host_file(host), indent=1))
        path = f"{node_files.PROGRAMS}:{self.node_programs}:{self.programs}"
        without_proxies = {
            key: value for key, value in environment("kernel").items() if not key.lower().endswith("_proxy")
        }
        kubeconfig = {"KUBECONFIG": str(self.plane.kubeconfig())} if name == CLIENT else {}
        variables = without_proxies | {"PATH": f"{without_proxies['PATH']}:{path}"} | kubeconfig
        keep = [str(directory), str(self.plane.directory), *(str(image.parent) for image in self.images)]
        argv = [sys.executable, "-I", "-S", str(NODE_INIT), str(file)]
        job = Job(argv, str(directory), variables, keep=keep)
        self.since[name] = int(time.time())
        self.machines[name] = Machine(self.kernel, job, memory=self.spec.memory, nic=self.site.nic(name))

    def host_file(self, host: Host) -> dict[str, Any]:
        """What a host is told: see node_init.py."""
        every = tuple(self.hosts.values())
        told = {
            "name": host.name,
            "address": str(host.address),
            "port": DOOR,
            "secret": self.secret,
            "network": interface(host, every),
            "modules": str(modules_of(self.kernel) or ""),
            "files": {},
            "commands": {},
        }
        return told | (self._node_part(host) if host.pods else {})

    def _node_part(self, host: Host) -> dict[str, Any]:
        run = node_files.RUN
        files = {
            f"{run}/containerd.toml": node_files.containerd(),
            f"{run}/kubelet.json": node_files.kubelet(self.plane.authority),
            f"{node_files.CNI_DIRECTORY}/10-pods.conflist": node_files.cni(host),
        }
        commands = {
            "containerd": ["containerd", "--config", f"{run}/containerd.toml"],
            "kubelet": [
                "kubelet",
                f"--config={run}/kubelet.json",
                f"--kubeconfig={self.plane.node_kubeconfig(host.name)}",
                f"--hostname-override={host.name}",
                f"--node-ip={host.address},{host.address6}",
            ],
        }
        if self.spec.kube_proxy != "none":
            kubeconfig = self.plane.kubeconfig("system:kube-proxy", ())
            files[f"{run}/kube-proxy.json"] = node_files.kube_proxy(kubeconfig, host, self.spec.kube_proxy)
            commands["kube-proxy"] = ["kube-proxy", f"--config={run}/kube-proxy.json"]
        return {
            "files": files,
            "commands": commands,
            "resident": {
                str(self.node_programs / name): f"{node_files.PROGRAMS}/{name}" for name in node_files.RESIDENT
            },
            "containerd": node_files.CONTAINERD_SOCKET,
            "api": self.plane.url,
            "import": ["ctr", f"--address={node_files.CONTAINERD_SOCKET}", "--namespace=k8s.io", "images", "import",
                       "--local"],
            "images": [str(image) for image in self.images],
        }  # fmt: skip

    def kill(self, name: str) -> None:
        """Cut a host's power."""
        self._machine(name).__exit__()
        del self.machines[name]
        self.paused.discard(name)

    def pause(self, name: str) -> None:
        """Stop a host's clock, with all it has in hand."""
        os.killpg(self._machine(name).process.pid, signal.SIGSTOP)
        self.paused.add(name)

    def resume(self, name: str) -> None:
        os.killpg(self._machine(name).process.pid, signal.SIGCONT)
        self.paused.discard(name)

    def link(self, name: str, state: str, network: str = "") -> None:
        """Pull a host's cables (`down`), or put them back (`up`): all, or the one into `network`."""
        known = [at.lan.name for at in self.known(name).feet]
        if network and network not in known:
            raise LabError(f"{name} has no cable into {network}: it has one into {' and '.join(known)}")
        self.site.link(name, state, network)

    def known(self, name: str) -> Host:
        if (host := self.hosts.get(name)) is None:
            raise LabError(f"there is no host {name}: there are {', '.join(self.hosts)}")
        return host

    def _machine(self, name: str) -> Machine:
        self.known(name)
        if (machine := self.machines.get(name)) is None:
            raise LabError(f"{name} is off")
        return machine

    def condition(self, name: str) -> str:
        """`on`, `off`, `paused`, or `dead`: a kernel that ended by itself."""
        if (machine := self.machines.get(name)) is None:
            return "off"
        if machine.process.poll() is not None:
            return "dead"
        return "paused" if name in self.paused else "on"

    def last_words(self, name: str) -> str:
        """What a kernel that ended by itself said at the end, and what ran in it."""
        if self.condition(name) != "dead":
            return ""
        machine = self.machines[name]
        told = [(machine.directory / output).read_text(errors="replace") for output in ("stdout", "stderr")]
        return "\n".join([machine.last_words(), *told])[-4000:]

    def status(self) -> dict[str, Any]:
        """What there is, for who looks on."""
        return {
            "kubeconfig": str(self.state.kubeconfig),
            "programs": str(self.programs),
            "prefix": self.site.prefix,
            "secret": self.secret,
            "control_plane": str(self.plane.directory),
            "hosts": {
                host.name: {
                    "address": str(host.address),
                    "address6": str(host.address6),
                    "state": self.condition(host.name),
                    "since": self.since[host.name],
                    "logs": str(self.state.host(host.name)),
                    "last_words": self.last_words(host.name),
                }
                for host in self.hosts.values()
            },
        }

    def verbs(self) -> dict[str, Callable[..., Any]]:
        """What can be asked for."""
        return {
            "status": self.status,
            "kill": self.kill,
            "boot": self.boot,
            "pause": self.pause,
            "resume": self.resume,
            "link": self.link,
            "stop_api": self.plane.stop_api,
            "kill_api": self.plane.kill_api,
            "start_api": self.plane.start_api,
            "pause_api": self.plane.pause,
            "resume_api": self.plane.resume,
        }

    def serve(self, listening: socket.socket) -> None:
        """For ever: a signal ends it."""
        verbs = self.verbs()
        while True:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError), connection.makefile() as incoming:
                verb, *arguments = json.loads(incoming.readline() or '[""]')
                try:
                    answer = {"result": verbs[verb](*arguments)}
                except (LabError, OSError, KeyError, TypeError) as error:
                    answer = {"error": str(error)}
                connection.sendall(json.dumps(answer).encode() + b"\n")


def told_to_end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def main() -> None:
    """`python -m ipvs_lab.cluster.keeper NAME`: returns when a child of its own holds the cluster, which goes on. Where
    that ends by itself, `failure` says why."""
    state = State(sys.argv[1])
    held = state.hold()
    if held is None:
        return  # somebody else was faster
    if child := os.fork():
        state.say_who(held, child)
        os._exit(0)
    signal.signal(signal.SIGTERM, told_to_end)
    scratch = Scratch(SCRATCH)
    tempfile.tempdir = str(scratch.path)  # what our parts leave, if we are killed, goes with this directory
    try:
        spec, images = state.read_spec()
        keeper = Keeper(state, spec, images)
        try:
            keeper.start()
            with state.listen() as listening:
                keeper.serve(listening)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
            keeper.close()
    except LabError as error:
        state.failure.write_text(str(error))
    finally:
        scratch.close()


if __name__ == "__main__":
    main()
