"""The hosts of a cluster: which there are, commands on them, and verbs for what may happen to them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ipvs_lab.cluster.keeper import DOOR
from ipvs_lab.cluster.plan import CLIENT, ROUTER
from ipvs_lab.cluster.state import State
from ipvs_lab.machine import LabError
from ipvs_lab.progress import step

REMOTE = Path(__file__).with_name("remote.py")


class Hosts:
    """Of one cluster, by its name, whether it is up or not: `node1`, `node2` and so on, `client` and, where it is on a
    network of its own, `router`. LabError if the cluster is not up."""

    def __init__(self, name: str) -> None:
        self.state = State(name)
        self.name = name

    def status(self) -> dict[str, Any]:
        """Hosts with addresses, state (`on`, `off`, `paused`, `dead`), place of their logs and, of the dead, last
        words."""
        answer: dict[str, Any] = self.state.ask("status")
        return answer

    @property
    def nodes(self) -> list[str]:
        return [name for name in self.status()["hosts"] if name not in (CLIENT, ROUTER)]

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

    def unplug(self, host: str, network: str = "") -> None:
        """Pull a host's network cables: all it has, or the one into `network`, `servers` or `clients`."""
        self.state.ask("link", host, "down", network)

    def plug(self, host: str, network: str = "") -> None:
        self.state.ask("link", host, "up", network)
