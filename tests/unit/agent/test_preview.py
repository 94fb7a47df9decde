"""What ``plan`` says of one IPVS service."""

import pytest

from ipvs_agent.preview import Preview, preview_service
from ipvs_agent.services import FWD_NAT, Destination, Head, pack_destination, pack_head, pack_key, pack_row

KEY = pack_key("TCP", "2001:db8::1", 80)
UDP = pack_key("UDP", "192.0.2.1", 53)
SECOND = "real server [2001:db8::1:2]:8080"
NAME = "service tcp [2001:db8::1]:80"


def row(*weights: int, scheduler: str = "wrr") -> bytes:
    """A row with one real server a weight, ::1 the first; weight below 0: it is not there."""
    servers = [
        pack_destination(Destination(f"2001:db8::1:{number}", 8080, FWD_NAT, weight))
        for number, weight in enumerate(weights, 1)
        if weight >= 0
    ]
    return pack_row(Head(scheduler, 0, 0, 128), servers)


@pytest.mark.parametrize(
    ("have", "want", "told"),
    [
        pytest.param(None, row(1), ("add", "wrr to [2001:db8::1:1]:8080 weight 1"), id="new"),
        pytest.param(row(1), row(1), None, id="the same"),
        pytest.param(
            row(1, 2),
            row(1, -1, 3, scheduler="lc"),
            ("change", f"scheduler, flags or persistence, {SECOND} drained, real server [2001:db8::1:3]:8080 added"),
            id="one goes, one comes",
        ),
        pytest.param(row(1, 2), row(1, 5), ("change", f"{SECOND} changed"), id="a weight"),
        pytest.param(row(1, 0), row(1), None, id="drains already"),
        pytest.param(row(1), None, ("drain", "nothing wants it any more"), id="to go"),
        pytest.param(row(0), None, None, id="going already"),
        pytest.param(row(), None, ("remove", "nothing wants it any more"), id="empty"),
        pytest.param(None, None, None, id="gone"),
    ],
)
def test_a_service_is_told_by_what_will_become_of_it(
    have: bytes | None, want: bytes | None, told: tuple[str, str] | None
) -> None:
    expected = Preview(told[0], NAME, told[1]) if told is not None else None
    assert preview_service(KEY, have, want) == expected


def test_a_udp_server_that_goes_is_deleted_at_once() -> None:
    server = pack_destination(Destination("10.0.0.1", 53, FWD_NAT, 1))
    head = pack_head(Head("rr", 0, 0, 32))
    told = preview_service(UDP, head + server, head)
    assert told == Preview("change", "service udp 192.0.2.1:53", "real server 10.0.0.1:53 deleted")


def test_many_servers_are_not_all_named() -> None:
    told = preview_service(KEY, None, row(*[1] * 12))
    assert told is not None
    assert told.detail.count("weight") == 10
    assert told.detail.endswith(", …")
