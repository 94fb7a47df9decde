"""An API server with one Lease, and candidates whose clocks drift, whose answers get lost and requests are late."""

from collections.abc import Callable

from hypothesis import strategies as st

from ipvs_api.meta import ObjectMeta
from ipvs_kube.errors import ApiError
from ipvs_operator.lease import Lease, LeaseSpec, Tenure

CONFLICT = ApiError(409, "Conflict", "another version is stored")


class World:
    """``now``: true time in seconds. ``draw``: Hypothesis' choice of what goes wrong, and when."""

    def __init__(self, draw: Callable[[st.SearchStrategy[object]], object]) -> None:
        self.draw = draw
        self.now = 1000.0
        self.lease: Lease | None = None
        self.version = 0
        self.late: list[tuple[LeaseSpec, Lease | None]] = []
        """Writes whose senders have given up waiting."""
        self.faulty = True
        self.candidates: list[Candidate] = []
        self.requesting = 0

    def holders(self) -> list[str]:
        return [each.tenure.me for each in self.candidates if each.tenure.surely_held]

    def check(self) -> None:
        assert len(self.holders()) <= 1, f"{self.holders()} hold the lease at {self.now}"

    def store(self, spec: LeaseSpec, over: Lease | None) -> Lease:
        if (self.lease is None) != (over is None):
            raise CONFLICT
        there, wanted = self.lease, over
        if there and wanted and there.metadata.resource_version != wanted.metadata.resource_version:
            raise CONFLICT
        self.version += 1
        self.lease = Lease(ObjectMeta("ipvs-operator", "ipvs-system", resource_version=str(self.version)), spec)
        return self.lease

    def pass_time(self) -> None:
        """While somebody waits for the network: time goes on, and others go on."""
        if not self.faulty:
            self.now += 0.01
            return
        self.now += self.draw(st.sampled_from([0.0, 0.1, 1.0, 2.9]))  # type: ignore[operator]
        if self.requesting < 3 and self.draw(st.booleans()):
            self.act()
        self.check()

    def act(self) -> None:
        """One thing happens."""
        what = self.draw(st.sampled_from(["step", "step", "step", "time", "late", "quit", "delete"]))
        if what == "step":
            self.step(self.draw(st.sampled_from(self.candidates)))  # type: ignore[arg-type]
        elif what == "time":
            self.now += self.draw(st.sampled_from([0.5, 2.0, 6.0, 9.9, 14.9, 15.1, 40.0]))  # type: ignore[operator]
        elif what == "late" and self.late:
            self.deliver_late()
        elif what == "quit":
            candidate = self.draw(st.sampled_from(self.candidates))
            if not candidate.busy:  # type: ignore[attr-defined]
                candidate.quit()  # type: ignore[attr-defined]
        elif what == "delete":
            self.lease = None
        self.check()

    def step(self, candidate: "Candidate") -> None:
        if not candidate.busy and not candidate.gone:
            candidate.step()

    def deliver_late(self) -> None:
        spec, over = self.late.pop(0)
        try:
            self.store(spec, over)
        except ApiError:
            return


class Candidate:
    """``drift``: how much faster its clock goes than true time."""

    def __init__(self, world: World, name: str, drift: float) -> None:
        self._world, self._drift = world, drift
        self.busy = False
        self.gone = False
        self.tenure = Tenure(self, name, lambda: world.now * drift)

    def step(self) -> None:
        self.busy = True
        self._world.requesting += 1
        try:
            self.tenure.step()
        except ApiError:
            pass
        finally:
            self.busy = False
            self._world.requesting -= 1
        self.gone = self.gone or self.tenure.lost

    def quit(self) -> None:
        """End in good order."""
        self.gone = True
        self.busy = True
        try:
            self.tenure.give_up()
        except ApiError:
            pass
        finally:
            self.busy = False

    def read(self) -> Lease | None:
        self._fail_perhaps()
        self._world.pass_time()
        found = self._world.lease
        self._world.pass_time()
        self._fail_perhaps()
        return found

    def write(self, spec: LeaseSpec, over: Lease | None) -> Lease:
        self._fail_perhaps()
        self._world.pass_time()
        if self._world.faulty and self._world.draw(st.integers(0, 5)) == 0:
            self._world.late.append((spec, over))
            raise ApiError(0, "Unreachable", "no answer; it may be carried out yet")
        stored = self._world.store(spec, over)
        self._world.pass_time()
        self._fail_perhaps()
        return stored

    def _fail_perhaps(self) -> None:
        if self._world.faulty and self._world.draw(st.integers(0, 7)) == 0:
            raise ApiError(0, "Unreachable", "no answer")
