"""Stepping into a host: its network namespace and its own view of /sys and of private directories.

A host is three namespaces: one of the network, named (`ip netns exec NAME` works too), one with its host name, and one
of mounts, in which /sys shows that network and /var/lib/ipvs-operator and /run/ipvs-operator are the host's own, so
that several agents with default paths live in one kernel. All are entered by the calling thread, which makes
everything it starts there (a socket, a child process) belong to the host; it takes no process and microseconds.
"""

import contextlib
import ctypes
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

CLONE_FS, CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET = 0x00000200, 0x00020000, 0x04000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x1000, 0x4000, 0x40000, 2
NAMED = Path("/run/netns")
PRIVATE = ("/var/lib/ipvs-operator", "/run/ipvs-operator")  # what every host has for itself

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Turn a C call's failure into OSError."""
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0) -> None:
    """mount(2)."""
    check(libc.mount(source.encode(), target.encode(), kind.encode(), flags, None), f"mount {target}")


def setns(descriptor: int, kind: int) -> None:
    """setns(2) for the calling thread."""
    check(libc.setns(descriptor, kind), "setns")


def unshare(kind: int) -> None:
    """unshare(2) for the calling thread."""
    check(libc.unshare(kind), "unshare")


@contextlib.contextmanager
def returning() -> Iterator[None]:
    """Whatever namespaces the block enters, the calling thread is back in its own, and in its directory, afterwards."""
    unshare(CLONE_FS)  # a mount namespace can be entered only by a thread with a root and directory of its own
    with contextlib.ExitStack() as stack:
        places = ("/proc/thread-self/ns/net", "/proc/thread-self/ns/uts", "/proc/thread-self/ns/mnt", ".")
        net, uts, mnt, cwd = (os.open(place, os.O_RDONLY | os.O_CLOEXEC) for place in places)
        for descriptor in (net, uts, mnt, cwd):
            stack.callback(os.close, descriptor)
        try:
            yield
        finally:
            setns(mnt, CLONE_NEWNS)
            setns(uts, CLONE_NEWUTS)
            setns(net, CLONE_NEWNET)
            os.fchdir(cwd)


class Namespaces:
    """The namespaces of one host, made and named on creation and gone after `close` (and the end of what runs
    there)."""

    def __init__(self, name: str, *, private: bool = True) -> None:
        """`name` is the network namespace's under /run/netns. `private`: the others too."""
        self.name = name
        NAMED.mkdir(exist_ok=True)
        self.path = NAMED / name
        self.path.touch(exist_ok=False)
        self.storage = Path("/run/hosts") / name
        with returning():
            unshare(CLONE_NEWNET)
            mount("/proc/thread-self/ns/net", str(self.path), flags=MS_BIND)
            self.net = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self.uts, self.mnt = (self._names(), self._mounts()) if private else (-1, -1)

    def _names(self) -> int:
        unshare(CLONE_NEWUTS)
        socket.sethostname(self.name)
        return os.open("/proc/thread-self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)

    def _mounts(self) -> int:
        for directory in PRIVATE:
            (self.storage / directory[1:]).mkdir(parents=True, exist_ok=True)
            Path(directory).mkdir(parents=True, exist_ok=True)
        unshare(CLONE_NEWNS)
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
        libc.umount2(b"/sys", MNT_DETACH)
        mount("sysfs", "/sys", "sysfs")
        for directory in PRIVATE:
            mount(str(self.storage / directory[1:]), directory, flags=MS_BIND)
        # A copy of the names here would keep every other host's network alive for as long as this one.
        libc.umount2(str(NAMED).encode(), MNT_DETACH)
        return os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is on the host within the block."""
        cwd = Path.cwd()
        with returning():
            setns(self.net, CLONE_NEWNET)
            if self.mnt >= 0:
                setns(self.uts, CLONE_NEWUTS)
                setns(self.mnt, CLONE_NEWNS)
                os.chdir(cwd)
            yield

    def close(self) -> None:
        """Let go of them."""
        for descriptor in (self.net, self.uts, self.mnt):
            if descriptor >= 0:
                os.close(descriptor)
        libc.umount2(str(self.path).encode(), MNT_DETACH)
        self.path.unlink(missing_ok=True)
        # Another network's host of the same name is another machine.
        shutil.rmtree(self.storage, ignore_errors=True)
