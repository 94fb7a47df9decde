"""What a node needs besides Kubernetes' own programs: containerd, runc and network plugins. Built once for a machine
from a Go module of their own (``go-node``), which leaves the control plane's programs as they are."""

import hashlib
import re
from pathlib import Path

from ipvs_lab import tools
from ipvs_lab.kernel import cache_directory, locked
from ipvs_lab.kubernetes.programs import compile_go, find_go
from ipvs_lab.machine import LabError

MODULE = Path(__file__).with_name("go-node")
CONTAINERD = "github.com/containerd/containerd/v2"
PLUGINS = "github.com/containernetworking/plugins/plugins"
PACKAGES = {
    "containerd": f"{CONTAINERD}/cmd/containerd",
    "containerd-shim-runc-v2": f"{CONTAINERD}/cmd/containerd-shim-runc-v2",
    "ctr": f"{CONTAINERD}/cmd/ctr",
    "runc": "github.com/opencontainers/runc",
    "ptp": f"{PLUGINS}/main/ptp",
    "host-local": f"{PLUGINS}/ipam/host-local",
    "loopback": f"{PLUGINS}/main/loopback",
    "portmap": f"{PLUGINS}/meta/portmap",
}
WITH_C = {"runc": "seccomp"}  # build tags; without seccomp runc refuses every pod's sandbox


def version(go_mod: str) -> str:
    """containerd's version in the text of go.mod: ``2.4.2``."""
    if match := re.search(rf"{re.escape(CONTAINERD)} v(\d+\.\d+\.\d+)", go_mod):
        return match[1]
    raise LabError(f"{MODULE / 'go.mod'} names no version of {CONTAINERD}")


def directory() -> Path:
    """Where the programs are, or will be."""
    go_mod, go_sum = ((MODULE / name).read_text() for name in ("go.mod", "go.sum"))
    return cache_directory() / f"node-{version(go_mod)}-{hashlib.sha256((go_mod + go_sum).encode()).hexdigest()[:12]}"


def find_node_programs() -> Path:
    """The directory with all of PACKAGES, built first if they are not there yet (some minutes, with progress)."""
    target = directory()
    if all((target / name).is_file() for name in PACKAGES):
        return target
    tools.ensure(tools.BUILD_NODE)
    target.mkdir(parents=True, exist_ok=True)
    go_mod = (MODULE / "go.mod").read_text()
    with locked(cache_directory() / "node.lock"):
        go = find_go(go_mod)
        for name, package in PACKAGES.items():
            if not (target / name).is_file():
                values = {f"{CONTAINERD}/version.Version": f"v{version(go_mod)}"} if CONTAINERD in package else None
                tags = WITH_C.get(name, "")
                what = f"building {name} (once for this machine)"
                compile_go(go, MODULE, package, target / name, what, values=values, tags=tags, cgo=name in WITH_C)
    return target
