"""The lease: who decides what, and that two never hold it, whatever clocks and networks do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipvs_kube.errors import ApiError
from ipvs_operator.lease import LEASE_SECONDS, RENEW_SECONDS, Decision, Lease, LeaseSpec, Tenure, decide

from .lease_model import Candidate, World

OTHER = LeaseSpec(holder_identity="other", lease_duration_seconds=15)


@pytest.mark.parametrize(
    ("record", "seen_for", "decision"),
    [
        (None, 0.0, Decision.TAKE),
        (LeaseSpec(), 0.0, Decision.TAKE),
        (LeaseSpec(holder_identity=""), 0.0, Decision.TAKE),
        (LeaseSpec(holder_identity="me", lease_duration_seconds=15), 0.0, Decision.RENEW),
        (LeaseSpec(holder_identity="me", lease_duration_seconds=15), 1000.0, Decision.RENEW),
        (OTHER, 0.0, Decision.WAIT),
        (OTHER, 14.9, Decision.WAIT),
        (OTHER, 15.0, Decision.TAKE),
        (LeaseSpec(holder_identity="other", lease_duration_seconds=60), 59.0, Decision.WAIT),
        (LeaseSpec(holder_identity="other"), LEASE_SECONDS - 0.1, Decision.WAIT),
        (LeaseSpec(holder_identity="other"), LEASE_SECONDS, Decision.TAKE),
        # What other machines' clocks say decides nothing.
        (LeaseSpec(holder_identity="other", renew_time="1970-01-01T00:00:00.000000Z"), 1.0, Decision.WAIT),
        (LeaseSpec(holder_identity="other", renew_time="2999-01-01T00:00:00.000000Z"), 20.0, Decision.TAKE),
    ],
)
def test_what_is_decided(record: LeaseSpec | None, seen_for: float, decision: Decision) -> None:
    assert decide(record, 500.0, "me", 500.0 + seen_for) is decision


def quiet_world() -> World:
    world = World(lambda strategy: pytest.fail("nothing goes wrong here"))
    world.faulty = False
    world.candidates = [Candidate(world, "a", 1.0), Candidate(world, "b", 1.0)]
    return world


def run(world: World, candidate: Candidate, seconds: float) -> None:
    """The candidate alone, for so long."""
    end = world.now + seconds
    while world.now < end:
        candidate.step()
        world.now += 2.0


def test_the_second_waits_while_the_first_renews() -> None:
    world = quiet_world()
    first, second = world.candidates
    for _ in range(60):
        first.step()
        second.step()
        world.now += 2.0
        assert first.tenure.surely_held
        assert not second.tenure.surely_held
    assert second.tenure.holder == "a"


def test_a_lease_given_up_is_taken_at_the_next_look() -> None:
    world = quiet_world()
    first, second = world.candidates
    first.step()
    second.step()
    first.quit()
    assert not first.tenure.surely_held
    second.step()
    assert second.tenure.surely_held
    assert world.lease is not None
    assert world.lease.spec.lease_transitions == 2


def test_a_silent_holders_lease_is_taken_when_it_has_run_out_and_not_before() -> None:
    world = quiet_world()
    first, second = world.candidates
    first.step()
    second.step()
    began = world.now
    while not second.tenure.surely_held:
        world.now += 2.0
        second.step()
    assert LEASE_SECONDS <= world.now - began <= LEASE_SECONDS + 3
    assert not first.tenure.surely_held


def test_a_holder_that_slept_knows_at_once_that_it_may_not_write_and_never_holds_again() -> None:
    world = quiet_world()
    first, second = world.candidates
    first.step()
    world.now += RENEW_SECONDS + 0.1
    assert not first.tenure.surely_held
    assert first.tenure.lost
    run(world, first, 60.0)
    assert not first.tenure.surely_held
    second.step()
    run(world, second, 20.0)
    assert second.tenure.surely_held


def test_a_holder_whose_lease_somebody_else_wrote_lets_go_at_once() -> None:
    world = quiet_world()
    first, _ = world.candidates
    first.step()
    world.store(OTHER, world.lease)
    first.step()
    assert first.tenure.lost


def test_a_holder_makes_its_deleted_lease_anew() -> None:
    world = quiet_world()
    first, second = world.candidates
    first.step()
    second.step()
    world.lease = None
    first.step()
    first.step()
    second.step()
    assert first.tenure.surely_held
    assert second.tenure.holder == "a"


def test_a_deleted_lease_is_not_free_for_those_who_have_seen_it_held() -> None:
    world = quiet_world()
    first, second = world.candidates
    first.step()
    second.step()
    world.lease = None
    second.step()
    second.step()
    assert not second.tenure.surely_held
    first.step()
    assert first.tenure.lost
    run(world, second, LEASE_SECONDS + 4)
    assert second.tenure.surely_held


def test_a_holder_that_cannot_renew_goes_on_for_a_while_and_then_has_lost() -> None:
    world = quiet_world()
    first, _ = world.candidates
    first.step()

    def fail(spec: LeaseSpec, over: Lease | None) -> Lease:
        raise ApiError(503, "ServiceUnavailable", "not now")

    first.write = fail  # type: ignore[method-assign]
    first.step()
    world.now += RENEW_SECONDS - 1
    assert first.tenure.surely_held
    world.now += 2.0
    assert first.tenure.lost


def test_a_namesake_from_before_is_renewed_and_not_waited_for() -> None:
    """An answer that got lost: the lease is ours, though we never heard so."""
    world = quiet_world()
    first, _ = world.candidates
    world.store(LeaseSpec(holder_identity="a", lease_duration_seconds=15), None)
    first.step()
    assert first.tenure.surely_held


@pytest.mark.slow
@settings(max_examples=100)
@given(st.data())
def test_two_never_hold_it(data: st.DataObject) -> None:
    """Three candidates; clocks up to 10 % off; answers lost, requests late, the Lease deleted, holders that stop."""
    world = World(data.draw)
    drifts = data.draw(st.lists(st.sampled_from([0.9, 1.0, 1.1]), min_size=3, max_size=3))
    world.candidates = [Candidate(world, name, drift) for name, drift in zip("abc", drifts, strict=True)]
    world.faulty = False
    for candidate in world.candidates:  # everybody has looked once: who has not takes a Lease that is not there
        candidate.step()
    world.faulty = True
    for _ in range(data.draw(st.integers(1, 40))):
        world.act()
    world.faulty = False
    _somebody_takes_it(world)


def _somebody_takes_it(world: World) -> None:
    """Once nothing goes wrong any more; who had lost it is a new process."""
    for candidate in world.candidates:
        if candidate.gone:
            candidate.tenure = Tenure(candidate, f"{candidate.tenure.me}'", lambda: world.now)
            candidate.gone = False
    began = world.now
    while not world.holders():
        assert world.now - began < 25, "nobody takes the lease"
        for candidate in world.candidates:
            candidate.step()
            world.check()
        world.now += 2.0
