"""How far plans are in the kernel: sequences of what arrives and what is outstanding."""

from ipvs_agent.observed import Observed

ENOUGH = 3


class Kernel:
    """What is still to be written."""

    def __init__(self) -> None:
        self.observed = Observed()
        self.outstanding: list[str] = []

    def arrive(self, version: str, *owners: str) -> None:
        self.observed.arrive(owners, version)
        self.outstanding += owners

    def version(self, *written: str) -> str:
        """After these have been written and read back."""
        self.outstanding = [owner for owner in self.outstanding if owner not in written]
        self.observed.settle(self.outstanding, ENOUGH)
        return self.observed.version


def test_the_version_moves_when_the_last_plan_up_to_it_is_written() -> None:
    kernel = Kernel()
    kernel.arrive("10", "a", "b")
    assert kernel.version("a") == ""
    assert kernel.version("b") == "10"
    kernel.arrive("11", "c")
    kernel.arrive("12", "d")
    assert kernel.version("d") == "10"
    assert kernel.version("c") == "12"


def test_of_the_first_list_everything_must_be_written_whoever_brought_it() -> None:
    kernel = Kernel()
    kernel.outstanding = ["from before"]
    kernel.arrive("10")
    assert kernel.version() == ""
    assert kernel.version("from before") == "10"


def test_later_plans_do_not_wait_for_what_others_repair() -> None:
    kernel = Kernel()
    kernel.arrive("10")
    assert kernel.version() == "10"
    kernel.outstanding = ["being repaired"]
    kernel.arrive("11", "a")
    assert kernel.version("a") == "11"


def test_a_plan_that_came_before_its_version_was_known_is_waited_for() -> None:
    kernel = Kernel()
    kernel.arrive("10")
    kernel.version()
    kernel.arrive("10", "early")
    kernel.arrive("12", "late")
    assert kernel.version("late") == "10"
    assert kernel.version("early") == "12"


def test_the_same_version_again_and_none_move_nothing() -> None:
    kernel = Kernel()
    kernel.arrive("10")
    kernel.arrive("10")
    kernel.arrive("")
    assert kernel.version() == "10"


def test_what_another_process_had_observed_stands_until_there_is_more() -> None:
    kernel = Kernel()
    kernel.observed.version = "8"
    kernel.arrive("9", "a")
    assert kernel.version() == "8"
    assert kernel.version("a") == "9"


def test_a_history_turned_back_makes_what_was_observed_void() -> None:
    kernel = Kernel()
    kernel.arrive("100", "a")
    assert kernel.version("a") == "100"
    kernel.arrive("70", "b")
    kernel.outstanding.append("c")
    assert kernel.version("b") == ""
    assert kernel.version("c") == "70"


def test_more_than_enough_are_not_looked_for_while_the_version_cannot_move() -> None:
    observed = Observed()
    observed.arrive(["x"], "10")
    looked: list[str] = []

    def many() -> "list[str]":
        return [f"s{number}" for number in range(100)]

    found = observed.settle((looked.append(owner) or owner for owner in many()), ENOUGH)
    assert len(found) == ENOUGH + 1 == len(looked)
