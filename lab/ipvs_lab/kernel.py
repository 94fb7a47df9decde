"""The lab's kernels: where they are, and how they come to be. Built once for a machine, outside the checkout.

Most have everything built in (`builtin`). In a `modular` one IPVS, nftables and tunnels are modules, as in a
distribution's kernel; they are beside it (`modules_of`).
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ipvs_lab import config, tools
from ipvs_lab.machine import Job, LabError, Machine, environment
from ipvs_lab.progress import run_with_progress, step
from ipvs_lab.source import obtain

OBJECTS = 1300  # files that the compiler sees, about; for the progress only
ROOM = 3 << 30  # bytes that a build takes


def cache_directory() -> Path:
    """Where kernels are kept: $XDG_CACHE_HOME/ipvs-lab, by default ~/.cache/ipvs-lab."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ipvs-lab"


def modules_of(kernel: Path) -> Path | None:
    """What has to be at /lib/modules where a kernel runs; None for one without modules."""
    directory = kernel.parent / "lib" / "modules"
    return directory if directory.is_dir() else None


def ready_kernel(kind: str = config.BUILTIN) -> Path | None:
    """The newest kernel in the cache that has this checkout's configuration, or the one that IPVS_LAB_KERNEL names in
    place of the one with all built in; None if there is none yet. LabError if IPVS_LAB_KERNEL names none."""
    if kind == config.BUILTIN and (given := os.environ.get("IPVS_LAB_KERNEL")):
        if not (Path(given).is_file() and os.access(given, os.X_OK)):
            raise LabError(f"IPVS_LAB_KERNEL={given} is not an executable file")
        return Path(given).resolve()
    cache = cache_directory()
    names = [path.parent.name for path in cache.glob("kernel-*/linux")]
    name = config.newest(names, config.fragment_of(kind))
    return cache / name / "linux" if name else None


def find_kernel(kind: str = config.BUILTIN) -> Path:
    """A lab kernel, built first if it is not there yet (some minutes, with progress). LabError if it cannot be."""
    if (kernel := ready_kernel(kind)) is not None:
        return kernel
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock"):
        if (kernel := ready_kernel(kind)) is not None:
            return kernel  # somebody else has built it meanwhile
        for left in cache.glob("build-*"):
            shutil.rmtree(left)  # by a builder that was killed: whoever holds the lock is alone
        directory = Path(tempfile.mkdtemp(prefix="build-", dir=cache))
        try:
            return build(directory, cache, kind)
        finally:
            with step("cleaning up"):
                shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One builder at a time; the others wait, and say so."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with step(f"waiting for another builder (who holds {path})"):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(directory: Path, cache: Path, kind: str) -> Path:
    """Build a kernel below `directory` and put it into the cache, whole or not at all."""
    if (room := shutil.disk_usage(directory).free) < ROOM:
        raise LabError(
            f"building the lab kernel takes {ROOM >> 30} GB, and {cache} has {room >> 30}: set XDG_CACHE_HOME"
        )
    modular = kind != config.BUILTIN
    tools.ensure((*tools.BUILD, *(tools.MODULES if modular else ())))
    source = obtain(directory)
    tree = directory / "tree"
    tree.mkdir()
    unpack = ["tar", "--extract", "--strip-components=1", f"--file={source.tarball}", f"--directory={tree}"]
    run_with_progress(unpack, f"unpacking the source of Linux {source.version}")
    fragment = config.fragment_of(kind)
    configure(tree, fragment)
    compile_kernel(tree, ["linux", "modules"] if modular else ["linux"])
    made = directory / config.cache_name(source.version, fragment)
    made.mkdir()
    if modular:
        install_modules(tree, made)
    shutil.copy(tree / "linux", made)
    shutil.copy(tree / ".config", made / "config")
    subprocess.run(["strip", made / "linux"], check=True)
    attempt(made / "linux")
    made.rename(cache / made.name)
    return cache / made.name / "linux"


def make(tree: Path, *arguments: str) -> list[str]:
    """A make command for the kernel, at low priority."""
    return ["nice", "make", "-C", str(tree), "ARCH=um", "LC_ALL=C", *arguments]


def configure(tree: Path, fragment: str) -> None:
    """Defaults, then the fragment, then what follows from both. LabError when a line of the fragment got lost."""
    (tree / "lab.config").write_text("".join(f"{name}={value}\n" for name, value in config.parse(fragment).items()))
    with step("configuring the lab kernel"):
        for command in (
            make(tree, "defconfig"),
            [str(tree / "scripts/kconfig/merge_config.sh"), "-m", "-O", str(tree), str(tree / ".config"), "lab.config"],
            make(tree, "olddefconfig"),
        ):
            done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
            if done.returncode:
                raise LabError(f"configuring the lab kernel: {' '.join(command)}:\n{done.stdout}{done.stderr}")
    if missing := config.lost(fragment, (tree / ".config").read_text()):
        raise LabError(f"this source does not take what {config.FRAGMENT.parent} asks for: {'; '.join(missing)}")


def compile_kernel(tree: Path, targets: list[str]) -> None:
    """Compile, telling how far it is."""
    compiled = 0

    def count(line: str) -> str:
        nonlocal compiled
        compiled += line.startswith("  CC ")
        return f"{compiled} of about {OBJECTS} files compiled"

    jobs = f"-j{os.cpu_count() or 1}"
    run_with_progress(make(tree, jobs, *targets), "building the lab kernel (once for this machine)", detail=count)


def install_modules(tree: Path, into: Path) -> None:
    """Put what was compiled as modules where `modules_of` finds it, with the lists that modprobe reads."""
    places = [f"INSTALL_MOD_PATH={into}", "INSTALL_MOD_STRIP=1", f"DEPMOD={tools.where('depmod')}"]
    run_with_progress(make(tree, *places, "modules_install"), "installing its modules", detail=str)
    for link in into.glob("lib/modules/*/build"):
        link.unlink()  # to the tree, which goes


def attempt(kernel: Path) -> None:
    """Boot a kernel once before anybody relies on it."""
    with step("trying the lab kernel"), Machine(kernel, Job(["true"], "/", environment("kernel"))) as machine:
        outcome = machine.wait(60)
        if outcome.status != 0:
            raise LabError(f"the new lab kernel does not run here: it {outcome.reason}\n{outcome.last_words}")
