"""Which tests run in which lab kernel. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

UNKNOWN_DURATION = 2.0  # seconds, for a test that has not run yet


class Setting(Enum):
    """What the kernel of a test is like."""

    VIRTUAL = "time in which nothing runs is skipped"
    REAL = "time runs by itself"
    CLUSTER = "time runs by itself, and a Kubernetes API server is beside it"


@dataclass(frozen=True)
class Case:
    """A test as the scheduler sees it."""

    nodeid: str
    setting: Setting

    @property
    def module(self) -> str:
        """The file it is in."""
        return self.nodeid.split("::")[0]


@dataclass(frozen=True)
class Batch:
    """Tests for one kernel, in order."""

    setting: Setting
    cases: tuple[Case, ...]


def split(cases: Sequence[Case], workers: int, durations: Mapping[str, float]) -> list[list[Batch]]:
    """For each worker the batches that it runs, a kernel each: at most one of each setting.

    Modules stay together (their fixtures are set up once) and go, longest first by the durations known (seconds of
    real time by node id), to the worker with the least to do so far.
    """
    modules: dict[tuple[Setting, str], list[Case]] = {}
    for case in cases:
        modules.setdefault((case.setting, case.module), []).append(case)
    loads = [0.0] * workers
    assigned: list[dict[Setting, list[Case]]] = [{} for _ in range(workers)]
    for (setting, _), members in sorted(modules.items(), key=lambda one: -cost(one[1], durations)):
        lightest = loads.index(min(loads))
        loads[lightest] += cost(members, durations)
        assigned[lightest].setdefault(setting, []).extend(members)
    order = {case.nodeid: number for number, case in enumerate(cases)}
    return [
        [
            Batch(setting, tuple(sorted(members, key=lambda case: order[case.nodeid])))
            for setting, members in batches.items()
        ]
        for batches in assigned
        if batches
    ]


def cost(cases: Iterable[Case], durations: Mapping[str, float]) -> float:
    """Seconds that tests will take."""
    return sum(durations.get(case.nodeid, UNKNOWN_DURATION) for case in cases)
