"""The cluster of tests/e2e for figures, once beside each mode of kube-proxy that IPVS_BENCH_PROXIES names."""

import os
from collections.abc import Iterator

import pytest
from tests.e2e.conftest import before, world
from tests.e2e.lab import LabTestbed

__all__ = ["before", "world"]

PROXIES = os.environ.get("IPVS_BENCH_PROXIES", "nftables ipvs").split()


@pytest.fixture(scope="session", params=PROXIES)
def testbed(request: pytest.FixtureRequest) -> Iterator[LabTestbed]:
    made = LabTestbed(f"bench-{request.param}", 3, request.param)
    try:
        made.up()
        yield made
    finally:
        made.down()
