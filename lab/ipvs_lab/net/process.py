"""Processes on a host, as handles: one for commands that were executed, the same for callables that were forked."""

import contextlib
import ctypes
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None, use_errno=True)


class CommandFailed(AssertionError):  # noqa: N818  it reads as what it is, like AssertionError's other kin
    """A command on a host ended with a status that was not expected; the text has what it wrote."""


class Child:
    """A process on a host. Its standard output and error go to the file `log`."""

    def __init__(self, pid: int, name: str, log: Path) -> None:
        self.pid = pid
        self.name = name
        self.log = log
        self.exit_code: int | None = None
        self._pidfd = os.pidfd_open(pid)

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.exit_code is None and not self._ended(0)

    def _ended(self, timeout: float | None) -> bool:
        if self.exit_code is not None:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1000):
            return False
        _, status = os.waitpid(self.pid, 0)
        self.exit_code = os.waitstatus_to_exitcode(status)
        os.close(self._pidfd)
        return True

    def wait(self, timeout: float | None = 60) -> int:
        """Wait for its end; its exit status, or minus the signal that ended it. AssertionError after `timeout` s."""
        if not self._ended(timeout):
            raise AssertionError(f"{self.name} was still running after {timeout:g} s; it wrote:\n{self.output()}")
        assert self.exit_code is not None
        return self.exit_code

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal; nothing if it has ended."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM, and wait for its end."""
        self.kill(signal.SIGTERM)
        return self.wait(timeout)

    def end(self) -> None:
        """Make sure that it is gone, without asking."""
        self.kill(signal.SIGKILL)
        self._ended(None)


def fork(
    function: Callable[..., object], arguments: tuple[Any, ...], name: str, log: Path, keep: Iterable[int] = ()
) -> Child:
    """Run `function(*arguments)` in a forked process, in whatever namespaces the calling thread is. Its exit status is
    what it returns if that is an int, else 0; 1 and a traceback in the log when it raises.

    The child has a session of its own, default signals, no descriptors of the parent's but `keep`, and dies with the
    parent: what a test leaves behind must not disturb the next one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, name, log)
    return become(function, arguments, log, sorted(keep))


def become(function: Callable[..., object], arguments: tuple[Any, ...], log: Path, keep: list[int]) -> NoReturn:
    """The forked process's whole life."""
    status = 1
    try:
        os.setsid()
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 1)
        os.dup2(1, 2)
        close_others(keep)
        # Text written before a SIGKILL has to be in the log, so lines go out as they come.
        sys.stdin, sys.stdout, sys.stderr = (
            open(0, closefd=False),  # noqa: SIM115
            open(1, "w", buffering=1, closefd=False),  # noqa: SIM115
            open(2, "w", buffering=1, closefd=False),  # noqa: SIM115
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        result = function(*arguments)
        status = result if isinstance(result, int) and not isinstance(result, bool) else 0
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # noqa: BLE001  whatever it was, it belongs into the log and not into the parent's stack
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status & 0xFF)


def close_others(keep: list[int]) -> None:
    """Close every descriptor but the three standard ones and those in `keep` (sorted)."""
    lowest = 3
    for descriptor in keep:
        os.closerange(lowest, descriptor)
        lowest = max(lowest, descriptor + 1)
    os.closerange(lowest, 65536)
