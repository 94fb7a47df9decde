"""`ipvs-lab run`: one program as root in one lab kernel, with its output and exit status coming out."""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from ipvs_lab.kernel import find_kernel
from ipvs_lab.kubernetes.beside import api_beside
from ipvs_lab.machine import Job, LabError, Machine, environment, inside
from ipvs_lab.site import Nic

KERNEL_DIED = 125  # our own exit status, as `timeout` and `docker run` use it


def program(script: str, arguments: list[str]) -> list[str]:
    """How to run a script: Python files with the project's Python, whatever else is executable as it is.

    A script that is a file is meant, wherever its directory; a bare word is looked up on PATH. LabError otherwise.
    """
    path = Path(script)
    if path.is_file():
        if path.suffix == ".py":
            return [sys.executable, str(path.resolve()), *arguments]
        if not os.access(path, os.X_OK):
            raise LabError(f"{script} is not executable: chmod +x {script}, or name it .py")
        return [str(path.resolve()), *arguments]
    if "/" not in script and shutil.which(script, path=environment("kernel")["PATH"]):
        return [script, *arguments]
    raise LabError(f"there is no script {script}")


def native_obstacle() -> str:
    """Why the machine's own kernel cannot be the lab; "" if it can."""
    if os.geteuid() != 0:
        return "--native needs root: use sudo, or leave --native away"
    if not Path("/proc/net/ip_vs").exists() and shutil.which("modprobe"):
        subprocess.run(["modprobe", "-q", "ip_vs"], check=False)
    if not Path("/proc/net/ip_vs").exists():
        return "this machine's kernel has no IPVS (no /proc/net/ip_vs, also after modprobe ip_vs): leave --native away"
    return ""


def copy(source: IO[bytes], target: int) -> None:
    """Pass on what comes until the other side is closed. A reader of ours that has gone stops nothing."""
    while data := os.read(source.fileno(), 65536):
        view = memoryview(data)
        with contextlib.suppress(BrokenPipeError):
            while view:
                view = view[os.write(target, view) :]


def run_job(
    job: Job,
    kernel: Path,
    *,
    memory: str,
    virtual_time: bool,
    timeout: float | None,
    keep_output: Path | None = None,
    nic: Nic | None = None,
) -> int:
    """Run a job, its output going where ours goes; its exit status, or KERNEL_DIED after telling the kernel's last
    words."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    threads = []
    ends = []
    for target in (sys.stdout.fileno(), sys.stderr.fileno()):
        reader, writer = os.pipe()
        ends.append(writer)
        source = os.fdopen(reader, "rb", buffering=0)
        threads.append(threading.Thread(target=copy, args=(source, target), daemon=True))
        threads[-1].start()
    machine = Machine(kernel, job, memory=memory, virtual_time=virtual_time, stdout=ends[0], stderr=ends[1], nic=nic)
    with machine:
        for end in ends:
            os.close(end)
        outcome = machine.wait(timeout)
        for thread in threads:
            thread.join(5)
        if keep_output is not None:
            shutil.copytree(machine.directory, keep_output, dirs_exist_ok=True)
    if outcome.status is None:
        print(f"ipvs-lab: the lab kernel {outcome.reason}. Its last words:", file=sys.stderr)
        print(outcome.last_words, file=sys.stderr)
        return KERNEL_DIED
    return outcome.status


def choose_kernel(*, native: bool) -> Path:
    """The lab kernel (built first if need be), or Path() for the machine's own. LabError if there is neither."""
    if native and (obstacle := native_obstacle()):
        raise LabError(obstacle)
    return Path() if native else find_kernel()


def run_script(
    script: str,
    arguments: list[str],
    *,
    native: bool,
    virtual_time: bool,
    api: bool,
    memory: str,
    timeout: float | None,
    keep_output: Path | None,
) -> int:
    """`ipvs-lab run`. Within a lab already, the script simply runs. LabError for what a person has to mend."""
    argv = program(script, arguments)
    if api and (inside() or native or virtual_time):
        raise LabError("--api needs a lab kernel in real time, started from outside: leave the other options away")
    if inside():
        return subprocess.run(argv, check=False).returncode
    if native and virtual_time:
        raise LabError("--virtual-time needs a lab kernel: leave --native away")
    kernel = choose_kernel(native=native)
    job = Job(argv, str(Path.cwd()), environment("native" if native else "kernel"))
    with contextlib.ExitStack() as stack:
        nic = None
        if api:
            job, nic, plane = stack.enter_context(api_beside(job))
            print(f"export KUBECONFIG={plane.kubeconfig()} PATH={plane.programs}:$PATH", file=sys.stderr)
        return run_job(
            job,
            kernel,
            memory=memory,
            virtual_time=virtual_time,
            timeout=timeout,
            keep_output=keep_output,
            nic=nic,
        )
