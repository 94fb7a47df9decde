"""One lab kernel as a process of this machine: boot it with a program to run, wait, learn how it ended."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from ipvs_lab.site import Nic

GUEST = Path(__file__).with_name("guest.py")
INSIDE = "IPVS_LAB_INSIDE"  # set for everything that runs in a lab: "kernel" or "native"
DYING = re.compile(r"Kernel panic|BUG:|Oops|Out of memory|segfault|INFO: task .* blocked")
SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


class LabError(Exception):
    """Something about the lab that a person has to mend; the text says what was found and what to do."""


@dataclass(frozen=True)
class Job:
    """What a lab kernel is to run.

    argv         the program and its arguments, looked up on the environment's PATH
    cwd          where it starts
    environment  all of its environment
    keep         directories whose writes must reach the machine even if they lie below /etc, /var or /run
    terminal     (rows, columns) when the program is to have a terminal
    """

    argv: list[str]
    cwd: str
    environment: dict[str, str]
    keep: list[str] = field(default_factory=list)
    terminal: tuple[int, int] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a kernel ended: `status` is the program's exit status, or None and `reason` says what happened instead."""

    status: int | None
    reason: str = ""
    last_words: str = ""


def inside() -> str:
    """Which lab this process already runs in: "kernel" or "native", else ""."""
    return os.environ.get(INSIDE, "")


def environment(kind: str, **extra: str) -> dict[str, str]:
    """The caller's environment as a program in the lab gets it: the project's programs first on PATH, temporary files
    in memory, and no directory of the caller's on Python's module path by accident."""
    result = dict(os.environ)
    path = [str(Path(sys.executable).parent)]
    path += [entry for entry in result.get("PATH", "").split(":") if entry]
    path += [entry for entry in SYSTEM_PATH if entry not in path]
    for name in ("TMP", "TEMP"):
        result.pop(name, None)
    return result | {"PATH": ":".join(path), "PYTHONSAFEPATH": "1", "TMPDIR": "/run/tmp", INSIDE: kind} | extra


def last_words(console: str, lines: int = 25) -> str:
    """The telling part of a console: from where the kernel began to die if it says so, else its end."""
    told = [line.rstrip() for line in console.splitlines() if "ubd device" not in line]
    first = next((number for number, line in enumerate(told) if DYING.search(line)), max(0, len(told) - lines))
    return "\n".join(told[first : first + lines])


def memory_directory(wanted: int = 1 << 30) -> Path:
    """Where a kernel's memory is kept, as a file: in /dev/shm if it can be mapped executable there and has room for
    `wanted` bytes, else where temporary files go."""
    shared = Path("/dev/shm")
    with contextlib.suppress(OSError):
        state = os.statvfs(shared)
        if state.f_bavail * state.f_frsize >= wanted and not state.f_flag & os.ST_NOEXEC and os.access(shared, os.W_OK):
            return shared
    return Path(tempfile.gettempdir())


class Machine:
    """A kernel that is running a job. Use as a context manager: leaving it kills the kernel and removes its files."""

    def __init__(
        self,
        kernel: Path,
        job: Job,
        *,
        memory: str = "2G",
        virtual_time: bool = False,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        files: dict[str, str] | None = None,
        directory_variable: str = "",
        nic: "Nic | None" = None,
    ) -> None:
        """Boot `kernel` (native: the machine's own when `kernel` is Path()). Output goes to the descriptors given, or
        to the files `stdout` and `stderr` in `directory`.

        memory: ceiling of the kernel's memory, as in "2G". virtual_time: skip over time in which nothing runs.
        files: more files for `directory`, by name. directory_variable: an environment variable that names it inside.
        nic: cables into a site, `vec0` and so on inside.
        """
        self.directory = Path(tempfile.mkdtemp(prefix="ipvs-lab-"))
        self.virtual_time = virtual_time
        keep = [*job.keep, str(self.directory), job.cwd]
        variables = job.environment | ({directory_variable: str(self.directory)} if directory_variable else {})
        text = {"argv": job.argv, "cwd": job.cwd, "environment": variables, "keep": keep, "terminal": job.terminal}
        for name, content in (files or {}).items():
            (self.directory / name).write_text(content)
        (self.directory / "job.json").write_text(json.dumps(text))
        with contextlib.ExitStack() as opened:
            out, err = (
                given if given is not None else opened.enter_context((self.directory / name).open("wb"))
                for name, given in (("stdout", stdout), ("stderr", stderr))
            )
            console = opened.enter_context((self.directory / "console").open("wb"))
            if kernel == Path():
                command = [sys.executable, "-I", "-S", str(GUEST), "--native", str(self.directory)]
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            else:
                # Copies, because 1 and 2 are something else in the kernel's own process.
                descriptors = [os.dup(one if isinstance(one, int) else one.fileno()) for one in (out, err)]
                for descriptor in descriptors:
                    opened.callback(os.close, descriptor)
                self.process = self._boot(kernel, memory, job.terminal is not None, descriptors, console, nic)

    def _boot(
        self,
        kernel: Path,
        memory: str,
        terminal: bool,
        output: list[int],
        console: IO[bytes],
        nic: "Nic | None",
    ) -> "subprocess.Popen[bytes]":
        init = self.directory / "init"
        init.write_text(f"#!/bin/sh\nexec '{sys.executable}' -I -S '{GUEST}' '{self.directory}'\n")
        init.chmod(0o755)
        command = [
            *(nic.prefix if nic else ()),
            *(["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []),  # no kernel outlives its owner
            str(kernel), f"mem={memory}", f"uml_dir={self.directory}/", "umid=uml",
            "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={init}",
            "con=null", "con0=null,fd:1", f"con2=null,fd:{output[1]}",
            f"con1=fd:0,fd:{output[0]}" if terminal else f"con1=null,fd:{output[0]}",
            "quiet", "panic=-1", "oops=panic", "seccomp=on",
            *(["time-travel"] if self.virtual_time else []),
            *(nic.devices if nic else ()),
        ]  # fmt: skip
        variables = {key: value for key, value in os.environ.items() if key not in ("TMP", "TEMP")}
        variables["TMPDIR"] = str(memory_directory())
        return subprocess.Popen(
            command,
            stdin=None if terminal else subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            pass_fds=output,
            env=variables,
            start_new_session=True,
        )

    def wait(self, timeout: float | None = None) -> Outcome:
        """Wait for the kernel's end; after `timeout` seconds (of this machine's clock) it is killed."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return Outcome(None, f"was still running after {timeout:g} s and was killed", self.last_words())
        return self.outcome()

    def outcome(self) -> Outcome:
        """How it ended, once the process is gone."""
        with contextlib.suppress(FileNotFoundError):
            return Outcome(int((self.directory / "status").read_text()))
        return Outcome(None, f"ended without a result (process status {self.process.returncode})", self.last_words())

    def last_words(self, lines: int = 25) -> str:
        """The end of what the kernel wrote to its console."""
        text = (self.directory / "console").read_text(errors="replace")
        return last_words(text, lines)

    def kill(self) -> None:
        """End the kernel and everything in it, at once."""
        with contextlib.suppress(ProcessLookupError):
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *failure: object) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
