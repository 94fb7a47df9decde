"""Programs that the lab needs from the distribution: which, from which Debian package, and how to get them."""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ipvs_lab.machine import SYSTEM_PATH, LabError
from ipvs_lab.progress import run_with_progress


@dataclass(frozen=True)
class Tool:
    """`name` is a command, or the path of a file (a header); `package` the Debian package that has it."""

    name: str
    package: str


BUILD = (
    Tool("make", "make"),
    Tool("gcc", "gcc"),
    Tool("ld", "binutils"),
    Tool("/usr/include/stdio.h", "libc6-dev"),
    Tool("/usr/include/gelf.h", "libelf-dev"),
    Tool("flex", "flex"),
    Tool("bison", "bison"),
    Tool("bc", "bc"),
    Tool("perl", "perl"),
    Tool("xz", "xz-utils"),
    Tool("bzip2", "bzip2"),
    Tool("dpkg-deb", "dpkg"),
)
MODULES = (Tool("modprobe", "kmod"), Tool("depmod", "kmod"))
RUN = (
    Tool("ip", "iproute2"),
    Tool("tc", "iproute2"),
    Tool("nft", "nftables"),
    Tool("ipvsadm", "ipvsadm"),
    Tool("keepalived", "keepalived"),
    Tool("tcpdump", "tcpdump"),
    Tool("conntrack", "conntrack"),
    Tool("ping", "iputils-ping"),
    Tool("arping", "iputils-arping"),
    Tool("ethtool", "ethtool"),
    Tool("socat", "socat"),
    Tool("curl", "curl"),
    Tool("sysctl", "procps"),
    Tool("setpriv", "util-linux"),
)
CONTROL_PLANE = (Tool("openssl", "openssl"), Tool("curl", "curl"), Tool("setpriv", "util-linux"))
BUILD_NODE = (
    Tool("gcc", "gcc"),
    Tool("/usr/include/stdio.h", "libc6-dev"),
    Tool("/usr/include/seccomp.h", "libseccomp-dev"),
    Tool("pkg-config", "pkg-config"),
)
KUBE_PROXY = (Tool("iptables", "iptables"), Tool("ip6tables", "iptables"), Tool("ipset", "ipset"))


def where(command: str) -> str | None:
    """A command's path. System directories count also for users whose PATH lacks them."""
    return shutil.which(command, path=":".join((os.environ.get("PATH", ""), *SYSTEM_PATH)))


def present(tool: Tool) -> bool:
    """Whether this machine has it."""
    return Path(tool.name).exists() if tool.name.startswith("/") else where(tool.name) is not None


def missing(tools: Iterable[Tool], has: Callable[[Tool], bool] = present) -> dict[str, list[str]]:
    """Packages that are needed, with the names that each would bring."""
    packages: dict[str, list[str]] = {}
    for tool in tools:
        if not has(tool):
            packages.setdefault(tool.package, []).append(tool.name)
    return packages


def install_command(packages: Iterable[str]) -> str:
    """What a person has to type."""
    return f"sudo apt-get install --no-install-recommends {' '.join(sorted(packages))}"


def ensure(tools: Iterable[Tool]) -> None:
    """Install what is missing if we may; LabError with the command to type if not."""
    packages = missing(tools)
    if not packages:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        names = ", ".join(name for several in packages.values() for name in several)
        raise LabError(f"not installed: {names}. On Debian and Ubuntu: {install_command(packages)}")
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", *sorted(packages)]
    try:
        run_with_progress(install, f"installing {' '.join(sorted(packages))}", env=env, detail=str)
    except LabError:
        # The lists of packages may be missing (a fresh container) or too old to name files that are still there.
        run_with_progress(["apt-get", "update"], "fetching the lists of packages", env=env, detail=str)
        run_with_progress(install, f"installing {' '.join(sorted(packages))}", env=env, detail=str)
