"""pytest with a lab: tests below directories called `kernel`, `cluster` and `bench` run as root in lab kernels while
pytest itself runs outside, as ever.

Outside, items are collected and selected as usual; those of the lab are handed to an inner pytest in a kernel, and
what it reports is retold here, so there is one summary, and `-k`, `--lf`, `-x` and exit codes mean what they mean.
Inside a lab (`ipvs-lab run pytest ...`) tests simply run.

Time is virtual for the first and real for the others; tests of `cluster` have a Kubernetes API server beside them,
KUBECONFIG says where. Marks: `realtime` for a test that needs a clock that runs by
itself; `lab_timeout(seconds)` for one that needs longer.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ipvs_lab.machine import inside
from ipvs_lab.net.hosts import Network
from ipvs_lab.net.topology import Topology

ORDERS = "IPVS_LAB_ORDERS"  # for an inner pytest: the directory with what it is to run


def pytest_addoption(parser: pytest.Parser) -> None:
    """The lab's options."""
    group = parser.getgroup("lab", "tests in lab kernels")
    workers = min(2, os.cpu_count() or 1)
    group.addoption(
        "--lab-workers", type=int, default=workers, metavar="N", help="lab kernels at a time (default: %(default)s)"
    )
    group.addoption(
        "--lab-native", action="store_true", help="use the machine's own kernel: root, and IPVS in it; real time"
    )
    group.addoption(
        "--lab-timeout", type=float, default=180, metavar="S", help="seconds a test may take (default: %(default)s)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register marks, and the side of the fence that we are on."""
    config.addinivalue_line("markers", "realtime: needs real time (tests in lab kernels have virtual time)")
    config.addinivalue_line("markers", "lab_timeout(seconds): what this test may take, of this machine's time")
    if orders := os.environ.get(ORDERS):
        from ipvs_lab.pytest_inner import Inner

        config.pluginmanager.register(Inner(config, Path(orders)), "ipvs-lab-inner")
    elif not inside():
        from ipvs_lab.pytest_outer import Outer

        config.pluginmanager.register(Outer(config), "ipvs-lab-outer")
        from ipvs_lab.kubernetes import fixtures

        config.pluginmanager.register(fixtures, "ipvs-lab-kubernetes")


@pytest.fixture
def network() -> Iterator[Callable[[Topology], Network]]:
    """Makes topologies real for the length of a test."""
    with ExitStack() as stack:
        yield lambda topology: stack.enter_context(Network(topology))
