"""The pytest plugin from outside: one pytest, one summary, whatever happens in the kernels."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipvs_lab.machine import inside

pytestmark = pytest.mark.skipif(bool(inside()), reason="a lab kernel does not run in a lab kernel")

TESTS = """
import os, time, warnings
import pytest
from ipvs_lab.net import Network, Topology

def topology():
    result = Topology()
    result.lan("lan")
    result.host("one", lan="192.0.2.1/24")
    return result

def test_runs_as_root_in_a_lab():
    assert os.environ["IPVS_LAB_INSIDE"] == "kernel" and os.geteuid() == 0

def test_fails_in_a_block():
    with Network(topology()) as net:
        net["one"].popen("echo", "logged").wait()
        net["one"].run("ping", "-c1", "192.0.2.1")
        assert net["one"].name == "two"

def test_fails_with_the_fixture(network):
    assert network(topology())["one"].name == "two"

def test_is_skipped():
    pytest.skip("not today")

@pytest.mark.xfail(reason="known")
def test_is_expected_to_fail():
    raise AssertionError

@pytest.fixture
def broken():
    raise RuntimeError("no set-up")

def test_has_a_broken_fixture(broken):
    pass

def test_warns():
    warnings.warn("careful", UserWarning)
"""
DEADLY = """
import pytest

def test_before():
    pass

def test_kills_the_kernel():
    print("about to")
    open("/proc/sysrq-trigger", "w").write("c")

def test_after():
    pass

@pytest.mark.realtime
@pytest.mark.lab_timeout(2)
def test_hangs_where_python_can_be_interrupted():
    import time
    time.sleep(1000)

@pytest.mark.lab_timeout(1)
def test_hangs_where_virtual_time_stands_still():
    while True:
        pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with tests for here and for the lab."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:hypothesispytest\n")
    for directory in ("unit", "kernel"):
        (tmp_path / "tests" / directory).mkdir(parents=True)
    (tmp_path / "tests/unit/test_here.py").write_text("def test_here():\n    pass\n")
    (tmp_path / "tests/kernel/test_there.py").write_text(TESTS)
    return tmp_path


def run(project: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--color=no", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
        env=variables,
        check=False,
    )


def test_one_summary_tells_of_tests_here_and_in_the_lab(project: Path) -> None:
    done = run(project)
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert "2 failed, 3 passed, 1 skipped, 1 xfailed, 1 warning, 1 error in" in last
    assert "tests/kernel/test_there.py .FFsxE." in done.stdout
    assert 'assert net["one"].name == "two"' in done.stdout
    assert "RuntimeError: no set-up" in done.stdout
    assert "UserWarning: careful" in done.stdout


def test_evidence_of_failures_is_kept_and_named(project: Path) -> None:
    done = run(project, "-k", "fails or root")
    for test in ("test_fails_in_a_block", "test_fails_with_the_fixture"):
        directory = project / f"build/lab/tests_kernel_test_there.py_{test}"
        assert f"build/lab/{directory.name}: one.dump.txt" in done.stdout
        assert "# nft" in (directory / "one.dump.txt").read_text()
        assert (directory / "one.pcap").exists()
    in_block = project / "build/lab/tests_kernel_test_there.py_test_fails_in_a_block"
    assert (in_block / "one.pcap").stat().st_size > 200, "the ping is not in the capture"
    assert "logged" in (in_block / "one.echo.0.log").read_text()
    assert not (project / "build/lab/tests_kernel_test_there.py_test_runs_as_root_in_a_lab").exists()


def test_one_test_is_selected_by_its_path(project: Path) -> None:
    done = run(project, "tests/kernel/test_there.py::test_runs_as_root_in_a_lab")
    assert done.returncode == 0
    assert "1 passed" in done.stdout.splitlines()[-1]


def test_the_first_failure_stops_and_the_last_failures_are_run_again(project: Path) -> None:
    stopped = run(project, "-x")
    assert "1 failed, 2 passed" in stopped.stdout.splitlines()[-1]
    assert "stopping after 1 failures" in stopped.stdout
    again = run(project, "--lf")
    assert "1 failed" in again.stdout.splitlines()[-1]
    assert "passed" not in again.stdout.splitlines()[-1]


def test_nothing_is_selected(project: Path) -> None:
    assert run(project, "-k", "nothing_like_it").returncode == 5


def test_a_kernel_that_dies_or_hangs_fails_the_test_that_ran_and_no_other(project: Path) -> None:
    (project / "tests/kernel/test_there.py").write_text(DEADLY)
    done = run(project, "tests/kernel", "-v")
    assert "3 failed, 2 passed in" in done.stdout.splitlines()[-1]
    for name, outcome in (
        ("test_before", "PASSED"),
        ("test_kills_the_kernel", "FAILED"),
        ("test_after", "PASSED"),
        ("test_hangs_where_python_can_be_interrupted", "FAILED"),
        ("test_hangs_where_virtual_time_stands_still", "FAILED"),
    ):
        assert f"tests/kernel/test_there.py::{name} {outcome}" in done.stdout
    assert "Kernel panic - not syncing: sysrq triggered crash" in done.stdout
    assert "TookTooLongError: not done after 2 s" in done.stdout
    assert "the lab kernel reported nothing for 16 s and was killed while it ran this test" in done.stdout


def test_a_module_that_cannot_be_imported_inside_fails_its_tests(project: Path) -> None:
    text = 'import os\nif os.environ.get("IPVS_LAB_INSIDE"):\n    import no_such_module\n\ndef test_one():\n    pass\n'
    (project / "tests/kernel/test_there.py").write_text(text)
    done = run(project, "tests/kernel")
    assert done.returncode == 1
    assert "No module named 'no_such_module'" in done.stdout
    assert "1 failed" in done.stdout.splitlines()[-1]


def test_no_kernel_is_an_error_with_the_way_out(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPVS_LAB_KERNEL", "/no/such/kernel")
    done = run(project)
    assert done.returncode == 4
    assert "IPVS_LAB_KERNEL=/no/such/kernel is not an executable file" in done.stderr
