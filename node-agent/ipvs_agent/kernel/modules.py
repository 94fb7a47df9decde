"""Kernel modules, loaded with ``modprobe``. It takes CAP_SYS_MODULE, which the agent itself does not have."""

import subprocess
from pathlib import Path

LOADED = Path("/sys/module")
"""Has a directory for each module that is loaded, and for most of those that are built in."""


def load(name: str) -> str:
    """Have the kernel load a module with what it needs. Why that failed, in words; empty where it is there now."""
    command = ["modprobe", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        words = done.stderr.strip() or f"modprobe ended with status {done.returncode}"
    except OSError as error:
        words = f"modprobe cannot be run: {error.strerror}"
    else:
        if done.returncode == 0:
            return ""
    # A kernel without modules, or one whose list of what is built in is not on this node, has it all the same.
    return "" if (LOADED / name.replace("-", "_")).exists() else " ".join(words.split())
