"""`ipvs-lab run` from outside: what comes out of a lab kernel, and what is told when it dies."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ipvs_lab.machine import inside

pytestmark = pytest.mark.skipif(bool(inside()), reason="a lab kernel does not run in a lab kernel")


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", "from ipvs_lab.main import main; main()", "run", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | variables,
        check=False,
    )


def script(directory: Path, text: str) -> str:
    path = directory / "script"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_script_runs_as_root_on_a_kernel_with_ipvs_and_its_status_comes_out(tmp_path: Path) -> None:
    done = run(script(tmp_path, "id -u; ipvsadm -A -t 192.0.2.1:80 -s mh; ipvsadm -Sn; echo oops >&2; exit 7"))
    assert done.returncode == 7
    assert done.stdout == "0\n-A -t 192.0.2.1:80 -s mh\n"
    assert done.stderr == "oops\n"


def test_arguments_directory_and_environment_are_the_callers(tmp_path: Path) -> None:
    done = run(script(tmp_path, 'printf "%s|" "$@"; pwd; echo "$COLOUR"'), "a b", "", "ü", COLOUR="blue sky")
    assert done.stdout == f"a b||ü|{Path.cwd()}\nblue sky\n"


def test_output_is_passed_on_byte_by_byte(tmp_path: Path) -> None:
    done = run(script(tmp_path, "seq 20000; test ! -t 1"))
    assert done.returncode == 0
    assert done.stdout == "".join(f"{i}\n" for i in range(1, 20001))


def test_a_script_killed_by_a_signal_ends_as_a_shell_tells_it(tmp_path: Path) -> None:
    assert run(script(tmp_path, "kill -9 $$")).returncode == 137


def test_a_script_that_is_not_there_is_told() -> None:
    done = run("/no/such/script")
    assert (done.returncode, done.stderr) == (2, "ipvs-lab: there is no script /no/such/script\n")


def test_a_kernel_that_panics_fails_the_run_with_its_last_words(tmp_path: Path) -> None:
    done = run(script(tmp_path, "echo before; sleep 0.5; echo c > /proc/sysrq-trigger; exit 0"))
    assert done.returncode == 125
    assert done.stdout == "before\n"
    assert "ended without a result" in done.stderr
    assert "Kernel panic - not syncing: sysrq triggered crash" in done.stderr


def test_a_kernel_that_hangs_is_killed_after_the_timeout(tmp_path: Path) -> None:
    before = time.monotonic()
    done = run("--timeout", "3", script(tmp_path, "sleep 1000"))
    assert done.returncode == 125
    assert "was still running after 3 s and was killed" in done.stderr
    assert time.monotonic() - before < 30


def test_a_kernel_whose_process_is_killed_fails_the_run(tmp_path: Path) -> None:
    mark = tmp_path / "running"
    command = [sys.executable, "-c", "from ipvs_lab.main import main; main()", "run"]
    with subprocess.Popen(
        [*command, script(tmp_path, f"touch {mark}; sleep 1000")], stderr=subprocess.PIPE, text=True
    ) as lab:
        deadline = time.monotonic() + 60
        while not mark.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (kernel,) = Path(f"/proc/{lab.pid}/task/{lab.pid}/children").read_text().split()
        os.kill(int(kernel), 9)
        _, errors = lab.communicate(timeout=60)
    assert lab.returncode == 125
    assert "ended without a result (process status -9)" in errors


def test_no_kernel_outlives_a_killed_run(tmp_path: Path) -> None:
    mark = tmp_path / "running"
    command = [sys.executable, "-c", "from ipvs_lab.main import main; main()", "run"]
    with subprocess.Popen([*command, script(tmp_path, f"touch {mark}; sleep 1000")]) as lab:
        deadline = time.monotonic() + 60
        while not mark.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (kernel,) = Path(f"/proc/{lab.pid}/task/{lab.pid}/children").read_text().split()
        lab.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{kernel}").exists() and "Z" not in Path(f"/proc/{kernel}/stat").read_text().split(") ")[1][:1]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_virtual_time_skips_what_nobody_uses(tmp_path: Path) -> None:
    before = time.monotonic()
    done = run("--virtual-time", script(tmp_path, "sleep 1000; cut -d. -f1 /proc/uptime"))
    assert int(done.stdout) >= 1000
    assert time.monotonic() - before < 60


def test_nothing_persists_in_system_directories(tmp_path: Path) -> None:
    name = f"ipvs-lab-test-{os.getpid()}"
    files = [f"{directory}/{name}" for directory in ("/etc", "/var/lib", "/run")]
    done = run(script(tmp_path, f"touch {' '.join(files)} {tmp_path}/kept && ls {' '.join(files)}"))
    assert done.returncode == 0, done.stderr
    assert not any(Path(file).exists() for file in files)
    assert (tmp_path / "kept").exists()
