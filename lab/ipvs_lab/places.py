"""Where the example runs: a lab cluster, or kind with Docker."""

import json
import os
import shutil
import subprocess
from ipaddress import IPv4Network, ip_network
from pathlib import Path

from ipvs_lab.cluster.cluster import Cluster
from ipvs_lab.cluster.images import own_images
from ipvs_lab.cluster.plan import CLIENT, Spec
from ipvs_lab.cluster.state import state_directory
from ipvs_lab.config import BUILTIN
from ipvs_lab.images import CHECKOUT, DOCKERFILES, digest, find_images
from ipvs_lab.kubernetes.helm import find_helm
from ipvs_lab.machine import LabError
from ipvs_lab.progress import run_with_progress


class LabPlace:
    """A lab cluster; made if it is not there."""

    addresses = IPv4Network("10.200.0.112/28")

    def __init__(self, cluster: Cluster, spec: Spec) -> None:
        self.cluster, self.spec = cluster, spec
        # Most of the lab's kernels have no modules.
        self.values: tuple[str, ...] = ("modules.load=false",) if spec.kernel == BUILTIN else ()
        self.kubectl = cluster.kubectl
        self.kubeconfig = cluster.kubeconfig

    def helm(self) -> Path:
        return find_helm()

    def load_images(self) -> dict[str, str]:
        images = find_images()
        self.cluster.up(self.spec, [image.archive for image in images])
        return {_part(image.name): image.name for image in images}

    def ask(self, *argv: str) -> str:
        return self.cluster.exec(CLIENT, *argv, check=False, timeout=400).stdout


class KindPlace:
    """A cluster of kind by its name. Its nodes are containers on a bridge of this machine, which is the client."""

    values: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        for program in ("docker", "kind", "kubectl"):
            if shutil.which(program) is None:
                raise LabError(f"{program} is not installed")
        self.name = name
        self.kubeconfig = state_directory() / "kind" / name / "kubeconfig"
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(run("kind", "get", "kubeconfig", "--name", name).stdout)
        network = os.environ.get("KIND_EXPERIMENTAL_DOCKER_NETWORK", "kind")
        told = run("docker", "network", "inspect", network, "--format", "{{json .IPAM.Config}}").stdout
        self.addresses = far_end([part["Subnet"] for part in json.loads(told)])

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> "subprocess.CompletedProcess[str]":
        return run("kubectl", f"--kubeconfig={self.kubeconfig}", *arguments, stdin=stdin, check=check)

    def helm(self) -> Path:
        found = shutil.which("helm")
        return Path(found) if found else find_helm()

    def images(self) -> dict[str, str]:
        """Names of this checkout's images, by what the chart's values call them."""
        return {_part(name): f"localhost/{name}:{digest(CHECKOUT, file)}" for name, file in DOCKERFILES.items()}

    def load_images(self) -> dict[str, str]:
        names = self.images()
        for name, dockerfile in DOCKERFILES.items():
            image = names[_part(name)]
            build = ["docker", "build", "--file", str(CHECKOUT / dockerfile), "--tag", image, str(CHECKOUT)]
            run_with_progress(build, f"building {image}", detail=str)
        load = ["kind", "load", "--name", self.name]
        run_with_progress([*load, "docker-image", *names.values()], "loading the images", detail=str)
        for archive in own_images():
            run_with_progress([*load, "image-archive", str(archive)], f"loading {archive.name}", detail=str)
        return names

    def ask(self, *argv: str) -> str:
        return run(*argv, check=False).stdout


def _part(image: str) -> str:
    """What the chart's values call it: `operator` of `localhost/ipvs-operator:1`."""
    return image.rpartition("/")[2].partition(":")[0].removeprefix("ipvs-")


def far_end(subnets: list[str]) -> IPv4Network:
    """16 addresses near the end of the first IPv4 subnet, where Docker gives none. LabError: there is none."""
    for subnet in map(ip_network, subnets):
        if isinstance(subnet, IPv4Network) and subnet.prefixlen <= 24:
            return IPv4Network((int(subnet.broadcast_address) - 31, 28))
    raise LabError(f"the clusters' network has no IPv4 subnet of 256 addresses or more: {', '.join(subnets)}")


def run(
    *command: str, stdin: str = "", check: bool = True, timeout: float | None = None
) -> "subprocess.CompletedProcess[str]":
    """A command to its end; LabError with what it said where it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=timeout)
    if check and done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done
