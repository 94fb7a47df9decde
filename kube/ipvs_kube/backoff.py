"""How long to wait before trying again: exponential, with jitter, so that many clients do not come back at once."""

from dataclasses import dataclass


@dataclass
class Backoff:
    """Seconds: ``first`` after the first failure, twice as long after each further one, ``longest`` at most."""

    first: float
    longest: float
    failures: int = 0

    def next(self, chance: float, at_least: float = 0.0) -> float:
        """The wait after one more failure. ``chance``: a random number from 0 to 1, of which half the wait depends."""
        whole = min(self.longest, self.first * 2.0 ** min(self.failures, 62))
        self.failures += 1
        return max(at_least, whole * (0.5 + 0.5 * chance))

    def reset(self) -> None:
        self.failures = 0
