"""A round of asking, without a network: what is sent when, and what is believed."""

import pytest

from ipvs_agent.facts import Interface
from ipvs_agent.kernel import frames
from ipvs_agent.kernel.announce import BURST, BURST_INTERVAL, Probe, Timing, speaks_ethernet

OWN, OTHER = "02:00:00:00:01:00", "02:00:00:00:02:00"
TIMING = Timing(probes=3, interval=0.2, wait=0.2)


def run(probe: Probe, until: float, heard: dict[float, bytes] | None = None) -> list[tuple[float, bytes]]:
    """Wake the probe exactly when it wants to, on a clock that starts at 100; what it sent, with the time."""
    sent, now = [], 100.0
    pending = dict(heard or {})
    while now <= until and not probe.done(now):
        sent += [(now, frame) for frame in probe.due(now)]
        now = max(min([probe.wakes(), *pending]), now)
        for time in [time for time in pending if time <= now]:
            probe.heard(pending.pop(time))
    return sent


def test_a_free_address_is_asked_for_three_times_and_listened_for_after_the_last() -> None:
    probe = Probe(OWN, ["192.0.2.10"], 100.0, timing=TIMING)
    sent = run(probe, until=200)
    assert [round(at - 100, 3) for at, _ in sent] == [0, 0.2, 0.4]
    assert {frame for _, frame in sent} == {frames.probe(OWN, "192.0.2.10")}
    assert round(probe.ends - 100, 3) == 0.6
    assert not probe.done(100.59)
    assert probe.done(probe.ends)
    assert probe.holders == {}


def test_whoever_answers_ends_the_asking_for_that_address_only() -> None:
    probe = Probe(OWN, ["192.0.2.10", "2001:db8::10"], 100.0, timing=TIMING)
    answer = frames.announcements(OTHER, "2001:db8::10")[0]
    sent = run(probe, until=200, heard={100.1: answer})
    assert probe.holders == {"2001:db8::10": OTHER}
    assert [frame for _, frame in sent].count(frames.probe(OWN, "2001:db8::10")) == 1
    assert [frame for _, frame in sent].count(frames.probe(OWN, "192.0.2.10")) == 3


def test_it_is_over_at_once_when_every_address_is_taken() -> None:
    probe = Probe(OWN, ["192.0.2.10"], 100.0, timing=TIMING)
    probe.heard(frames.announcements(OTHER, "192.0.2.10")[1])
    assert probe.done(100.0)


def test_a_probe_of_somebody_else_for_the_same_address_is_a_conflict() -> None:
    probe = Probe(OWN, ["192.0.2.10", "2001:db8::10"], 100.0, timing=TIMING)
    probe.heard(frames.probe(OTHER, "192.0.2.10"))
    probe.heard(frames.probe(OTHER, "2001:db8::10"))
    assert probe.holders == {"192.0.2.10": OTHER, "2001:db8::10": OTHER}


def test_what_this_host_says_itself_and_what_is_about_other_addresses_does_not_count() -> None:
    second = "02:00:00:00:01:01"
    probe = Probe(OWN, ["192.0.2.10"], 100.0, own=[second], timing=TIMING)
    for mac in (OWN, second):
        probe.heard(frames.probe(mac, "192.0.2.10"))
        probe.heard(frames.announcements(mac, "192.0.2.10")[1])
    probe.heard(frames.announcements(OTHER, "192.0.2.11")[0])
    assert probe.holders == {}


@pytest.mark.slow
def test_ten_thousand_addresses_are_asked_for_in_bursts_and_take_half_a_second_longer_than_one() -> None:
    addresses = [f"10.1.{n // 250}.{n % 250 + 1}" for n in range(10_000)]
    probe = Probe(OWN, addresses, 100.0, timing=TIMING)
    sent = run(probe, until=200)
    assert len(sent) == 30_000
    assert {frame for _, frame in sent} == {frames.probe(OWN, address) for address in addresses}
    assert probe.ends - 100 < 0.6 + 0.5 + BURST_INTERVAL
    times = [at for at, _ in sent]
    assert times == sorted(times)
    # Rounds overlap, so up to three bursts may come together, never more.
    busiest = max(times.count(at) for at in set(times))
    assert busiest <= 3 * BURST


def test_only_ethernet_with_arp_is_asked_and_told() -> None:
    assert speaks_ethernet(Interface(2, "eth0", OWN))
    assert not speaks_ethernet(Interface(1, "lo", "00:00:00:00:00:00", loopback=True))
    assert not speaks_ethernet(Interface(3, "ipvs0", OWN, noarp=True))
    assert not speaks_ethernet(Interface(4, "tun0", ""))
    assert not speaks_ethernet(Interface(5, "gre1", "0a:00:00:01"))
