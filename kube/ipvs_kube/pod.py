"""What a pod knows of itself."""

import os
from pathlib import Path

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def own_namespace() -> str:
    """Of the pod that this runs in; empty: it does not run in one."""
    named = os.environ.get("POD_NAMESPACE", "")
    if named or not NAMESPACE.exists():
        return named
    return NAMESPACE.read_text().strip()
