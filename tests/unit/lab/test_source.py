from pathlib import Path

import pytest

from ipvs_lab.machine import LabError
from ipvs_lab.source import choose_version, from_tarball, mirrors, private_configuration, suitable

MADISON = """\
linux-source-7.2 | 7.2.13-1~bpo13+1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-source-7.2 | 7.2.12-1~bpo13+1 | http://mirror.example/debian trixie-backports/main amd64 Packages
"""


def test_the_source_that_was_tried_comes_first_then_the_newest() -> None:
    packages = ["linux-source-6.12", "linux-source-7.3", "linux-source-7.10", "linux-source-7.2", "linux-source-8.0"]
    assert suitable(packages) == ["linux-source-7.2", "linux-source-7.10", "linux-source-7.3"]


def test_a_release_without_a_new_enough_source_has_none() -> None:
    assert suitable(["linux-source-6.1", "linux-source-7.1", "linux-source", "linux-source-7.2-extra"]) == []


def test_the_version_that_was_tried_is_taken_while_the_mirror_has_it() -> None:
    assert choose_version(MADISON) == "7.2.12-1~bpo13+1"
    assert choose_version(MADISON.splitlines()[0]) == "7.2.13-1~bpo13+1"
    assert choose_version("") == ""


def test_debians_mirror_is_told_from_security_and_strangers() -> None:
    targets = (
        "http://mirror.example/security/|Debian|Debian-Security|main\n"
        "http://mirror.example/debian/|Debian|Debian|main\n"
        "http://mirror.example/debian/|Debian|Debian|main\n"
        "https://other.example/ubuntu/|Ubuntu|Ubuntu|main\n"
    )
    assert mirrors(targets) == ["http://mirror.example/debian/"]


def test_a_private_apt_configuration_leaves_the_machines_alone(tmp_path: Path) -> None:
    text = private_configuration(tmp_path, "deb http://mirror.example/debian x main\n").read_text()
    directories = [line.split('"')[1] for line in text.splitlines() if line.startswith("Dir::")]
    assert len(directories) == 4
    assert all(directory.startswith(str(tmp_path)) for directory in directories)


def test_a_tarball_of_ones_own_is_known_by_its_version(tmp_path: Path) -> None:
    tarball = tmp_path / "linux-7.2.12.tar.xz"
    tarball.touch()
    assert from_tarball(tarball).version == "7.2.12"
    with pytest.raises(LabError, match=r"named like linux-7\.2\.12\.tar\.xz"):
        from_tarball(tmp_path / "kernel.tar.xz")
