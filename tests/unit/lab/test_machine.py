import sys
from pathlib import Path

import pytest

from ipvs_lab.machine import LabError, environment, last_words
from ipvs_lab.net.waiting import await_condition
from ipvs_lab.run import program
from ipvs_lab.shell import load


def test_last_words_begin_where_the_kernel_began_to_die() -> None:
    console = "\n".join([*(f"line {i}" for i in range(50)), "Kernel panic - not syncing: gone", "CPU: 0", "trace"])
    assert last_words(console).splitlines() == ["Kernel panic - not syncing: gone", "CPU: 0", "trace"]


def test_last_words_are_the_end_when_nothing_is_said_about_dying() -> None:
    assert last_words("\n".join(f"line {i}" for i in range(50)), lines=2).splitlines() == ["line 48", "line 49"]


def test_the_projects_programs_come_first_and_system_programs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/opt/bin")
    path = environment("kernel")["PATH"].split(":")
    assert path[0] == str(Path(sys.executable).parent)
    assert path[1:3] == ["/usr/bin", "/opt/bin"]
    assert "/usr/sbin" in path
    assert environment("kernel")["PYTHONSAFEPATH"] == "1"


def test_a_python_file_runs_with_the_projects_python(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.touch()
    assert program(str(script), ["-x"]) == [sys.executable, str(script), "-x"]


def test_a_script_that_cannot_run_is_told_with_the_way_out(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.touch(mode=0o644)
    with pytest.raises(LabError, match=r"is not executable: chmod \+x"):
        program(str(script), [])
    with pytest.raises(LabError, match="there is no script"):
        program(str(tmp_path / "missing"), [])


def test_a_topology_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from ipvs_lab.net.topology import Topology\ntopology = Topology()\ntopology.lan('here')\n")
    assert list(load(str(file)).lans) == ["here"]
    file.write_text("topology = 3\n")
    with pytest.raises(LabError, match="no Topology called `topology`"):
        load(str(file))
    with pytest.raises(LabError, match="there is no topology nowhere: nat, dr, tun"):
        load("nowhere")


def test_waiting_fails_with_the_last_value_seen() -> None:
    values = iter(range(1000))

    def never() -> bool:
        next(values)
        raise AssertionError("weight is still 1")

    with pytest.raises(AssertionError, match=r"drained: not within 0\.05 s; last seen: weight is still 1"):
        await_condition(never, timeout=0.05, what="drained", every=0.01)
    assert await_condition(lambda: next(values) > 10, timeout=5, every=0) is True
