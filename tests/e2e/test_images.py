"""The project's images: small, without a shell, with nothing but what they need, run as whom they should."""

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Shown

from ipvs_lab.images import find_images

MB = 1_000_000
SHELLS = {"sh", "bash", "dash", "busybox"}


@dataclass(frozen=True)
class Unpacked:
    """An image as its archive has it: the runtime's configuration, and the layers' files with their sizes."""

    config: dict[str, Any]
    files: dict[str, int]
    dates: set[float]

    @property
    def programs(self) -> set[str]:
        return {Path(name).name for name in self.files if Path(name).parent.name in ("bin", "sbin")}


def unpacked(archive: Path) -> Unpacked:
    with tarfile.open(archive) as outer:

        def member(name: str) -> Any:
            return outer.extractfile(name)

        (manifest,) = json.load(member("manifest.json"))
        files: dict[str, int] = {}
        dates: set[float] = set()
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=member(layer)) as inner:
                for info in inner:
                    files[info.name] = info.size
                    dates.add(info.mtime)
        return Unpacked(json.load(member(manifest["Config"]))["config"], files, dates)


@pytest.fixture(scope="module")
def images(shown: Shown) -> dict[str, Unpacked]:
    with shown():
        return {image.name.rpartition("/")[2].partition(":")[0]: unpacked(image.archive) for image in find_images()}


@pytest.mark.parametrize(("name", "most"), [("ipvs-operator", 120 * MB), ("ipvs-agent", 150 * MB)])
def test_images_are_small(images: dict[str, Unpacked], name: str, most: int) -> None:
    assert sum(images[name].files.values()) < most


@pytest.mark.parametrize("name", ["ipvs-operator", "ipvs-agent"])
def test_images_have_no_shell_and_nothing_that_installs(images: dict[str, Unpacked], name: str) -> None:
    assert {"python3", name} <= images[name].programs
    assert not images[name].programs & (SHELLS | {"apt", "dpkg", "pip", "pip3"})


def test_the_operator_has_no_programs_of_the_agents(images: dict[str, Unpacked]) -> None:
    assert not images["ipvs-operator"].programs & {"nft", "modprobe", "kmod"}
    assert images["ipvs-operator"].config["User"] == "65532:65532"


def test_the_agent_has_nft_and_the_names_that_nft_asks_for(images: dict[str, Unpacked]) -> None:
    assert {"nft", "modprobe"} <= images["ipvs-agent"].programs
    assert "etc/protocols" in images["ipvs-agent"].files
    assert images["ipvs-agent"].config["User"] == "0:0"


@pytest.mark.parametrize("name", ["ipvs-operator", "ipvs-agent"])
def test_modules_are_compiled_and_dates_say_nothing(images: dict[str, Unpacked], name: str) -> None:
    """A root file system is read-only: what is not compiled is compiled anew at each start."""
    package = name.replace("-", "_")
    files = images[name].files
    sources = [path for path in files if f"/{package}/" in path and path.endswith(".py") and files[path]]
    assert sources
    for path in sources:
        stem = Path(path)
        assert any(other.startswith(f"{stem.parent}/__pycache__/{stem.stem}.") for other in files), path
    assert len(images[name].dates) == 1
