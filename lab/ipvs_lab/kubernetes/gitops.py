"""A program that says what Argo CD and Flux make of objects, from parts of theirs: the Lua interpreter of the one,
kstatus and the kinds of the other. Built once for a machine; ``go-gitops/go.mod`` and ``go-gitops/go.sum`` pin them.
"""

import hashlib
from pathlib import Path

from ipvs_lab.kernel import cache_directory, locked
from ipvs_lab.kubernetes.programs import compile_go, find_go

MODULE = Path(__file__).with_name("go-gitops")


def find_gitops() -> Path:
    """The program, built first if it is not there yet (a minute, with progress)."""
    made_of = b"".join((MODULE / name).read_bytes() for name in ("go.mod", "go.sum", "main.go"))
    program = cache_directory() / f"gitops-{hashlib.sha256(made_of).hexdigest()[:12]}" / "gitops"
    if not program.is_file():
        program.parent.mkdir(parents=True, exist_ok=True)
        with locked(cache_directory() / "gitops.lock"):
            if not program.is_file():  # nobody else has built it meanwhile
                go = find_go((MODULE / "go.mod").read_text())
                compile_go(go, MODULE, ".", program, "building what judges as Argo CD and Flux do (once)")
    return program
