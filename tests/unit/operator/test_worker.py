"""Which status is written at once, and which may wait for its like."""

from typing import Any

import pytest
from msgspec.structs import replace

from ipvs_api.meta import Condition, ConditionStatus
from ipvs_api.virtualservice import NodeCounts, RealServerCounts, StatusAddress, Summary, VirtualServiceStatus
from ipvs_operator.worker import _verdict

READY = Condition("Ready", ConditionStatus.TRUE, "Programmed", "It is in the kernels.", 1, "2026-01-01T00:00:00Z")
STATUS = VirtualServiceStatus(1, (StatusAddress("192.0.2.10", "lb1"),), (READY,))

CHANGES: list[tuple[dict[str, Any], bool]] = [
    ({"nodes": NodeCounts(9, 8)}, False),
    ({"real_servers": RealServerCounts(12, 11)}, False),
    ({"summary": Summary("192.0.2.10", "11/12", "8/9")}, False),
    ({"conditions": (replace(READY, message="Other words."),)}, False),
    ({"conditions": (replace(READY, last_transition_time="2026-01-02T00:00:00Z"),)}, False),
    ({"conditions": (replace(READY, status=ConditionStatus.FALSE),)}, True),
    ({"conditions": (replace(READY, reason="Pending"),)}, True),
    ({"conditions": (replace(READY, observed_generation=2),)}, True),
    ({"conditions": ()}, True),
    ({"observed_generation": 2}, True),
    ({"addresses": (StatusAddress("192.0.2.10", "lb2"),)}, True),
]


@pytest.mark.parametrize(("change", "turned"), CHANGES)
def test_counts_and_words_may_wait_and_what_somebody_waits_for_may_not(change: dict[str, Any], turned: bool) -> None:
    assert (_verdict(replace(STATUS, **change)) != _verdict(STATUS)) == turned
