"""What is known of a cluster outside its processes: a directory by its name, and who holds it."""

import contextlib
import fcntl
import json
import os
import re
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ipvs_lab.cluster.plan import Spec
from ipvs_lab.machine import LabError

DEFAULT_NAME = "lab"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


def state_directory() -> Path:
    """Where clusters are: $XDG_STATE_HOME/ipvs-lab, by default ~/.local/state/ipvs-lab."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "ipvs-lab"


def all_names() -> list[str]:
    """Every cluster that is there, or of which something is left."""
    return sorted(path.parent.name for path in state_directory().glob("*/lock"))


class State:
    """The files of one cluster. Who runs it holds a lock on `lock`, in which is its process id."""

    def __init__(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise LabError(f"{name!r} cannot be a cluster's name: letters, digits and hyphens, 32 at most")
        self.name = name
        self.directory = state_directory() / name
        self.lock = self.directory / "lock"
        self.log = self.directory / "keeper.log"
        self.failure = self.directory / "failure"
        self.kubeconfig = self.directory / "kubeconfig"

    def host(self, name: str) -> Path:
        """The files of a host: what it starts with, and the logs of its programs."""
        return self.directory / "hosts" / name

    def hold(self) -> int | None:
        """Take the lock: a descriptor that holds it, or None if the cluster is held already."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        self.say_who(descriptor, os.getpid())
        return descriptor

    def say_who(self, descriptor: int, process: int) -> None:
        """The lock is this process's, or will be: locks outlive a fork."""
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(process).encode(), 0)

    def holder(self) -> int | None:
        """The process that holds the cluster; None if there is none."""
        with contextlib.suppress(FileNotFoundError), self.lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None
        return None

    def write_spec(self, spec: Spec, images: list[Path]) -> None:
        """What the keeper is to make."""
        content = {"spec": asdict(spec), "images": [str(image) for image in images]}
        (self.directory / "cluster.json").write_text(json.dumps(content))

    def read_spec(self) -> tuple[Spec, list[Path]]:
        content = json.loads((self.directory / "cluster.json").read_text())
        return Spec(**content["spec"]), [Path(image) for image in content["images"]]

    @contextlib.contextmanager
    def _short_address(self) -> Any:
        """The keeper's socket under a name that is short enough for any directory (108 bytes, unix(7))."""
        descriptor = os.open(self.directory, os.O_PATH | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{descriptor}/verbs"
        finally:
            os.close(descriptor)

    def listen(self) -> socket.socket:
        """The keeper's end."""
        (self.directory / "verbs").unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        with self._short_address() as address:
            listening.bind(address)
        listening.listen(16)
        return listening

    def ask(self, verb: str, *arguments: str | int) -> Any:
        """Have the keeper do something; what it answers. LabError with its words where it cannot, or is not there."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                with self._short_address() as address:
                    connection.connect(address)
                connection.sendall(json.dumps([verb, *arguments]).encode() + b"\n")
                with connection.makefile() as incoming:
                    answer = json.loads(incoming.readline() or '{"error": "the cluster ended"}')
            except OSError:
                raise LabError(f"the cluster {self.name} is not up: ipvs-lab up --name {self.name}") from None
        if "error" in answer:
            raise LabError(f"cluster {self.name}: {answer['error']}")
        return answer["result"]
