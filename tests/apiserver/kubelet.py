"""Starts an operator again whenever it ends, as a kubelet does, in a tenth of the time: all is imported already.

``python kubelet.py [--mortal] [--hasty] run …``. ``--mortal``: it is killed after each write that was carried out,
before it can do anything else with what it knows. ``--hasty``: it looks at the lease every 0.2 s; that runs out in 2 s.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import ipvs_operator.app  # noqa: F401  # so that each start is a warm one
from ipvs_kube.api import Api
from ipvs_operator import lease
from ipvs_operator.main import main

PR_SET_PDEATHSIG = 1
PAUSE_SECONDS = 0.05


def dies(request: Callable[..., Any]) -> Callable[..., Any]:
    """Requests after which nothing more is done."""

    @wraps(request)
    def last(self: Api, method: str, path: str, *rest: Any, **more: Any) -> Any:
        answer = request(self, method, path, *rest, **more)
        if method != "GET":
            os.write(2, f"killed after {method} {path}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return last


def run(arguments: list[str]) -> None:
    """The operator, which ends with this process."""
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os._exit(main(arguments))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    os.write(2, f"ended: {os.waitstatus_to_exitcode(status)}\n".encode())
    if status == 0:
        sys.exit(0)


if __name__ == "__main__":
    wanted = sys.argv[1:]
    if "--mortal" in wanted:
        Api.request = dies(Api.request)  # type: ignore[method-assign]
    if "--hasty" in wanted:
        lease.RETRY_SECONDS, lease.RENEW_SECONDS, lease.LEASE_SECONDS = 0.2, 1.5, 2
    while True:
        run([each for each in wanted if each not in ("--mortal", "--hasty")])
        time.sleep(PAUSE_SECONDS)
