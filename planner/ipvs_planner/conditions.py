"""Conditions as the Kubernetes API conventions and kstatus want them."""

from collections.abc import Iterable

import msgspec

from ipvs_api.meta import Condition, ConditionStatus


def condition_of(conditions: Iterable[Condition], kind: str) -> Condition | None:
    return next((condition for condition in conditions if condition.type == kind), None)


def settle(conditions: Iterable[Condition], previous: Iterable[Condition], now: str) -> tuple[Condition, ...]:
    """``conditions`` with their ``lastTransitionTime``: the previous one while the status is the same, else ``now``."""
    since = {(condition.type, condition.status): condition.last_transition_time for condition in previous}
    return tuple(
        msgspec.structs.replace(condition, last_transition_time=since.get((condition.type, condition.status)) or now)
        for condition in conditions
    )


def is_true(condition: Condition | None) -> bool:
    return condition is not None and condition.status == ConditionStatus.TRUE
