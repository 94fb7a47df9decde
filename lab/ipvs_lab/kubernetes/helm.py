"""Helm: where it is, and how it comes to be. Built once for a machine from Go modules, which ``go-helm/go.mod`` and
``go-helm/go.sum`` pin; they are apart from Kubernetes' own, whose versions of common modules are others."""

import hashlib
import os
import re
from pathlib import Path

from ipvs_lab.kernel import cache_directory, locked
from ipvs_lab.kubernetes.programs import find_go
from ipvs_lab.machine import LabError
from ipvs_lab.progress import run_with_progress

MODULE = Path(__file__).with_name("go-helm")
PACKAGE = "helm.sh/helm/v4/cmd/helm"


def version(go_mod: str) -> str:
    """Helm's version in the text of go.mod: ``4.3.1``. LabError where it names none."""
    if match := re.search(r"helm\.sh/helm/v4 v(\d+\.\d+\.\d+)", go_mod):
        return match[1]
    raise LabError(f"{MODULE / 'go.mod'} names no version of helm.sh/helm/v4")


def find_helm() -> Path:
    """The program, built first if it is not there yet (a few minutes, with progress)."""
    go_mod, go_sum = ((MODULE / name).read_text() for name in ("go.mod", "go.sum"))
    number = version(go_mod)
    digest = hashlib.sha256((go_mod + go_sum).encode()).hexdigest()[:12]
    helm = cache_directory() / f"helm-{number}-{digest}" / "helm"
    if not helm.is_file():
        helm.parent.mkdir(parents=True, exist_ok=True)
        with locked(cache_directory() / "helm.lock"):
            if not helm.is_file():  # nobody else has built it meanwhile
                _build(number, helm)
    return helm


def _build(number: str, helm: Path) -> None:
    """Build it, whole or not at all."""
    flags = f"-s -w -X helm.sh/helm/v4/internal/version.version=v{number}"
    made = helm.with_name(".helm")
    command = ["nice", "-n", "15", find_go(), "build", "-mod=readonly", "-trimpath", "-v", f"-ldflags={flags}"]
    environment = os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false", "CGO_ENABLED": "0"}
    what = f"building Helm {number} (once for this machine)"
    run_with_progress([*command, "-o", str(made), PACKAGE], what, cwd=MODULE, env=environment, detail=str)
    made.rename(helm)
