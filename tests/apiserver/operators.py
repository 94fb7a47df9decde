"""The operator as users run it: a process of its own against a real API server, with verbs for what may happen to it.

def test_x(world: World) -> None:  # the fixture ``shop`` has an operator already
    world.node("director", "10.0.0.1", director=True)
    with operating(world.plane, world.system) as operator:
        ...
        operator.kill()
        operator.start()
"""

import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.kubernetes.ports import free_ports
from ipvs_lab.net.waiting import await_condition

READY_SECONDS = 30.0
END_SECONDS = 15.0
_STRAIGHT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class RunningOperator:
    """``kubeconfig``: who it is, where not the administrator. ``elects``: whether it takes part in the election.

    ``name``: in the lease, and of its log's file, which all its starts share. ``program``: what Python is to run.
    """

    def __init__(
        self,
        plane: ControlPlane,
        system: str,
        *,
        name: str = "operator",
        kubeconfig: Path | None = None,
        elects: bool = False,
        agent_pods: str = "",
        log_level: str = "info",
        program: Sequence[str] = ("-m", "ipvs_operator"),
    ) -> None:
        self.system = system
        (self.port,) = free_ports(1)
        self.log_file = plane.directory / f"{system}-{name}.log"
        self.log_file.unlink(missing_ok=True)
        self._command = [
            *("setpriv", "--pdeathsig", "KILL", sys.executable, *program, "run"),
            f"--kubeconfig={kubeconfig or plane.kubeconfig()}",
            f"--namespace={system}",
            f"--identity={name}",
            f"--agent-pods={agent_pods}",
            f"--health-port={self.port}",
            f"--log-level={log_level}",
            *([] if elects else ["--no-leader-election"]),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True) -> None:
        """Start it (again). ``ready``: return when it says that it is."""
        assert threading.current_thread() is threading.main_thread(), "it would end with the thread that starts it"
        assert not self.runs
        variables = {**os.environ, "NO_PROXY": "*", "no_proxy": "*", "PYTHONSAFEPATH": "1"}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,
            )
        if ready:
            self.await_ready()

    def await_ready(self) -> None:
        def look() -> bool:
            if not self.runs:
                raise RuntimeError(f"the operator has ended:\n{self.log()}")
            return self.ask("/readyz") == (200, "ok\n")

        await_condition(look, READY_SECONDS, "the operator is ready")

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def ask(self, path: str) -> tuple[int, str]:
        """What it answers under ``/healthz`` or ``/readyz``: status and text; status 0: nothing."""
        try:
            with _STRAIGHT.open(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def terminate(self) -> int:
        """Ask it to stop (SIGTERM); its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.wait()

    def kill(self) -> None:
        """It dies at once (SIGKILL)."""
        self._all(signal.SIGKILL)
        self.wait()

    def freeze(self) -> None:
        """It does nothing, as on a machine that sleeps."""
        self._all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._all(signal.SIGCONT)

    def _all(self, how: signal.Signals) -> None:
        """To it and whatever it has started."""
        assert self.process is not None
        os.killpg(self.process.pid, how)

    def wait(self, timeout: float = END_SECONDS) -> int:
        """Until it ends by itself; its exit status."""
        assert self.process is not None
        return self.process.wait(timeout)

    def restart(self) -> None:
        self.terminate()
        self.start()

    def log(self) -> str:
        """All that it has said, in all its starts."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def close(self) -> None:
        """End it; a fault of its own in its log is a failure, and a write that the API server would not have."""
        if self.runs:
            self.thaw()
            self.kill()
        print(f"{self.log_file.name}:\n{self.log()}")  # shown where the test fails
        assert "Traceback" not in self.log(), "the operator has told of a fault of its own"
        assert "(422 " not in self.log(), "the operator has written what is invalid"


@contextmanager
def operating(
    plane: ControlPlane,
    system: str,
    *,
    name: str = "operator",
    kubeconfig: Path | None = None,
    elects: bool = False,
    agent_pods: str = "",
    log_level: str = "info",
    program: Sequence[str] = ("-m", "ipvs_operator"),
    ready: bool = True,
) -> Iterator[RunningOperator]:
    """A started operator, which ends with the block. ``system``: its namespace. See ``RunningOperator``."""
    made = RunningOperator(
        plane,
        system,
        name=name,
        kubeconfig=kubeconfig,
        elects=elects,
        agent_pods=agent_pods,
        log_level=log_level,
        program=program,
    )
    try:
        made.start(ready=ready)
        yield made
    finally:
        made.close()
