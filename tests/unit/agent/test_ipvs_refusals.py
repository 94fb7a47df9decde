"""What people are told when the kernel would not take, or did not take, an IPVS entry."""

import errno

import pytest

from ipvs_agent.kernel import ipvs_codec as codec
from ipvs_agent.kernel.ipvs_refusals import judge, refusals
from ipvs_agent.kernel.netlink import UNKNOWN, Reply
from ipvs_agent.services import (
    FLAG_PERSISTENT,
    FWD_DIRECT,
    FWD_NAT,
    FWD_TUNNEL,
    TUNNEL_GUE,
    Destination,
    Head,
    pack_destination,
    pack_key,
    pack_row,
)
from ipvs_agent.table import Change, Verdict

KEY = pack_key("TCP", "192.0.2.10", 80)
KEY6 = pack_key("UDP", "2001:db8::10", 53)
GOOD = Destination("10.0.0.11", 8080, FWD_NAT, 1)
HEAD = Head("wlc", 0, 0, 32)


def row(*destinations: Destination, head: Head = HEAD) -> bytes:
    return pack_row(head, map(pack_destination, destinations))


def test_what_the_kernel_takes_has_no_refusals() -> None:
    tunnels = [Destination(f"10.0.0.{n}", 80, FWD_TUNNEL, 0, 5, 5, n, 6080) for n in (0, 1, 2)]
    assert refusals(KEY, row(GOOD, *tunnels, Destination("2001:db8::1", 80, FWD_TUNNEL, 1))) == []
    assert refusals(KEY6, row(Destination("2001:db8::1", 53, FWD_DIRECT, 1), head=Head("mh", 0x19, 300, 64))) == []


@pytest.mark.parametrize(
    ("key", "destination", "words"),
    [
        (KEY, GOOD._replace(weight=2**31), "weight 2147483648 is above"),
        (KEY, GOOD._replace(upper=2**31), "upper connection threshold 2147483648 is above"),
        (KEY, GOOD._replace(upper=5, lower=6), "lower connection threshold 6 is above the upper threshold 5"),
        (KEY, GOOD._replace(forwarding=FWD_TUNNEL, tunnel_type=TUNNEL_GUE), "a GUE tunnel needs a port other than 0"),
        (KEY, GOOD._replace(address="2001:db8::1"), "reached by tunnel only"),
        (KEY, GOOD._replace(address="224.0.0.18"), "224.0.0.18 is not a unicast address"),
        (KEY, GOOD._replace(address="0.0.0.0"), "0.0.0.0 is not a unicast address"),
        (KEY6, GOOD._replace(address="fe80::1"), "fe80::1 is not a unicast address"),
    ],
)
def test_a_destination_the_kernel_refuses_is_told_with_its_name(
    key: bytes, destination: Destination, words: str
) -> None:
    (told,) = refusals(key, row(destination))
    assert words in told
    assert told.startswith("real server ")
    assert destination.address in told


@pytest.mark.parametrize(
    ("key", "head", "words"),
    [
        (KEY, Head("", 0, 0, 32), "scheduler ''"),
        (KEY, Head("wlc", FLAG_PERSISTENT, 0, 32), "persistence of 0 s"),
        (KEY, Head("wlc", FLAG_PERSISTENT, 31 * 86400 + 1, 32), "31 days"),
        (KEY, Head("wlc", 0, 0, 33), "prefix length 33 is not between 0 and 32"),
        (KEY6, Head("wlc", 0, 0, 0), "prefix length 0 is not between 1 and 128"),
    ],
)
def test_a_head_the_kernel_refuses_is_told(key: bytes, head: Head, words: str) -> None:
    (told,) = refusals(key, row(head=head))
    assert words in told


def test_a_real_server_named_twice_is_told_once() -> None:
    assert refusals(KEY, row(GOOD, GOOD._replace(weight=2))) == ["real server 10.0.0.11:8080 is there 2 times"]


def answer(old: bytes | None, new: bytes | None, error: int, key: bytes = KEY, at: int = -1) -> tuple[Verdict, str]:
    change = Change(key, old, new)
    return judge(change, codec.messages(change)[at], Reply(error))


OTHER = row(GOOD._replace(weight=7))


@pytest.mark.parametrize(
    ("old", "new", "error", "at", "words"),
    [
        (None, row(GOOD), errno.EEXIST, 0, "TCP 192.0.2.10:80: the service is there already"),
        (None, row(GOOD), errno.EEXIST, 1, "real server 10.0.0.11:8080: the real server is there already"),
        (None, row(GOOD), errno.ESRCH, 1, "the service is gone"),
        (row(GOOD), OTHER, errno.ENOENT, 0, "the real server is gone"),
        (row(GOOD), row(), errno.ENOENT, 0, "the real server is gone"),
        (row(GOOD), row(), errno.ESRCH, 0, "the service is gone"),
        (row(GOOD), None, errno.ESRCH, 0, "the service is gone"),
        (row(), row(head=Head("rr", 0, 0, 32)), errno.ESRCH, 0, "the service is gone"),
        (None, row(GOOD), UNKNOWN, 0, "the kernel's answer was lost"),
    ],
)
def test_what_somebody_changed_meanwhile_is_looked_at_again(
    old: bytes | None, new: bytes | None, error: int, at: int, words: str
) -> None:
    verdict, told = answer(old, new, error, at=at)
    assert verdict is Verdict.UNKNOWN
    assert words in told
    assert told.startswith("TCP 192.0.2.10:80")


@pytest.mark.parametrize("old", [None, row(GOOD, head=Head("rr", 0, 0, 32))])
def test_a_missing_scheduler_is_told_with_its_module(old: bytes | None) -> None:
    verdict, told = answer(old, row(GOOD, head=Head("mh", 0, 0, 32)), errno.ENOENT, at=0)
    assert verdict is Verdict.FAILED
    assert "TCP 192.0.2.10:80" in told
    assert "modprobe ip_vs_mh" in told


@pytest.mark.parametrize(
    ("key", "destination", "error", "words"),
    [
        (KEY, GOOD, errno.EINVAL, "ip link set lo up"),
        (KEY, GOOD._replace(upper=1, lower=2), errno.ERANGE, "lower connection threshold 2 is above"),
        (KEY, Destination("2001:db8::1", 80, FWD_TUNNEL, 1), errno.EINVAL, "sync daemon"),
        (KEY6, Destination("2001:db8::1", 80, FWD_NAT, 1), errno.EAFNOSUPPORT, "no IPv6"),
        (KEY, GOOD, errno.EPERM, "CAP_NET_ADMIN"),
        (KEY, GOOD, errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_a_refused_real_server_is_named_with_the_reason(
    key: bytes, destination: Destination, error: int, words: str
) -> None:
    for old in (None, row()), (row(destination._replace(weight=9)), None):
        verdict, told = answer(old[0], row(destination), error, key)
        assert verdict is Verdict.FAILED
        assert words in told
        assert destination.address in told
        assert ("192.0.2.10" if key is KEY else "[2001:db8::10]:53") in told


def test_a_head_the_kernel_found_invalid_is_told_why() -> None:
    verdict, told = answer(None, row(head=Head("wlc", 0, 0, 0)), errno.EINVAL, KEY6, at=0)
    assert verdict is Verdict.FAILED
    assert "prefix length 0" in told
