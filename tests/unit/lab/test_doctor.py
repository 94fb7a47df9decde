from pathlib import Path

import pytest

from ipvs_lab.doctor import SHARED_MEMORY, architecture, disk, packages, ptrace, shared_memory
from ipvs_lab.kernel import ROOM
from ipvs_lab.tools import BUILD, RUN, install_command, missing


def test_a_finding_with_a_problem_has_a_way_out() -> None:
    assert architecture("x86_64").remedy == ""
    assert "--native" in architecture("aarch64").remedy
    assert ptrace(True).remedy == ""
    assert "SYS_PTRACE" in ptrace(False).remedy
    assert str(architecture("aarch64")).startswith("problem  architecture: aarch64\n")


@pytest.mark.parametrize(
    ("exists", "executable", "free", "other", "problem"),
    [
        (True, True, SHARED_MEMORY, 0, False),
        (True, False, SHARED_MEMORY, 0, True),
        (True, True, 64 << 20, 0, True),
        (False, False, 0, 0, True),
        (True, True, 64 << 20, SHARED_MEMORY, False),
    ],
)
def test_a_kernels_memory_needs_room_somewhere(
    exists: bool, executable: bool, free: int, other: int, problem: bool
) -> None:
    assert bool(shared_memory(exists, executable, free, other).remedy) == problem


def test_disk_room_matters_only_while_there_is_no_kernel() -> None:
    assert disk(ROOM - 1, None).remedy != ""
    assert disk(ROOM - 1, Path("/a/linux")).remedy == ""


def test_missing_programs_are_told_by_package() -> None:
    absent = missing(RUN, has=lambda tool: tool.name not in ("ip", "tc", "nft"))
    assert absent == {"iproute2": ["ip", "tc"], "nftables": ["nft"]}
    assert packages("programs", absent).remedy == install_command(["nftables", "iproute2"])
    assert install_command(["nftables", "iproute2"]).endswith(" iproute2 nftables")


def test_no_program_is_listed_twice() -> None:
    names = [tool.name for tool in (*BUILD, *RUN)]
    assert len(names) == len(set(names))
