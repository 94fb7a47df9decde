"""The lab kernel's source: found among the packages of the machine's own release, or of Debian's backports through the
mirror that the machine already uses, without touching the machine's own apt configuration."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ipvs_lab.machine import LabError
from ipvs_lab.progress import run_with_progress, step

SUITE = "trixie-backports"
TRIED = (
    (7, 2),
    "7.2.12-1~bpo13+1",
)  # the source that the fragment was tried with; others from 7.2 to 7.x are taken too
PACKAGE = re.compile(r"linux-source-(\d+)\.(\d+)(?:\.\d+)?$")
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TARGETS = "$(REPO_URI)|$(ORIGIN)|$(LABEL)|$(COMPONENT)"
TARBALL = "IPVS_LAB_KERNEL_SOURCE"
WAY_OUT = (
    f"set {TARBALL} to a kernel source tarball (7.2 or later, from kernel.org), or IPVS_LAB_KERNEL to a lab kernel "
    "that was built elsewhere"
)


@dataclass(frozen=True)
class Source:
    """A kernel's source as a tarball, and its version ("7.2.12-1~bpo13+1")."""

    version: str
    tarball: Path


def suitable(packages: list[str]) -> list[str]:
    """Source packages the lab can use (7.2 and later 7.x; older ones crash where vector registers are wide), the one
    that was tried first, then the newest."""
    found = {}
    for name in packages:
        if match := PACKAGE.match(name):
            version = int(match[1]), int(match[2])
            if (7, 2) <= version < (8, 0):
                found[name] = version
    return sorted(found, key=lambda name: (found[name] == TRIED[0], found[name]), reverse=True)


def choose_version(madison: str) -> str:
    """The version to take out of `apt-cache madison`'s lines: the one that was tried, else the first; "" for none."""
    versions = [line.split("|")[1].strip() for line in madison.splitlines() if line.count("|") == 2]
    return TRIED[1] if TRIED[1] in versions else next(iter(versions), "")


def mirrors(targets: str) -> list[str]:
    """Debian's mirrors out of `apt-get indextargets` in the format of TARGETS."""
    found: dict[str, None] = {}
    for line in targets.splitlines():
        fields = line.split("|")
        if len(fields) == 4 and fields[1:] == ["Debian", "Debian", "main"]:
            found[fields[0]] = None
    return list(found)


def apt(arguments: list[str], configuration: Path | None) -> str:
    """What an apt program says; "" when it fails."""
    env = os.environ | {"LC_ALL": "C"} | ({"APT_CONFIG": str(configuration)} if configuration else {})
    return subprocess.run(arguments, env=env, capture_output=True, text=True, check=False).stdout


def private_configuration(directory: Path, sources: str = "") -> Path:
    """An apt configuration with lists and caches of its own in `directory`, and sources of its own if given, else the
    machine's. Proxies and certificates stay the machine's."""
    for part in ("lists/partial", "cache/archives/partial", "parts"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    lines = [f'Dir::State::lists "{directory}/lists";', f'Dir::Cache "{directory}/cache";']
    if sources:
        (directory / "sources.list").write_text(sources)
        lines += [f'Dir::Etc::sourcelist "{directory}/sources.list";', f'Dir::Etc::sourceparts "{directory}/parts";']
        # Downloads happen as the caller, into the caller's directory, so apt's own user could not write there.
    lines.append('APT::Sandbox::User "";')
    configuration = directory / "apt.conf"
    configuration.write_text("\n".join(lines) + "\n")
    return configuration


def find_mirror(directory: Path) -> str:
    """The Debian mirror that this machine uses; "" when it uses none."""
    found = mirrors(apt(["apt-get", "indextargets", "--format", TARGETS], None))
    if not found:
        # A machine whose lists were never fetched says nothing: fetch them for ourselves, which needs no root.
        own = private_configuration(directory)
        run_with_progress(
            ["apt-get", "update"], "looking for a Debian mirror", env=os.environ | {"APT_CONFIG": str(own)}
        )
        found = mirrors(apt(["apt-get", "indextargets", "--format", TARGETS], own))
    return next(iter(found), "")


def obtain(directory: Path) -> Source:
    """Get a kernel's source into `directory`: the tarball that the environment names, a package of the machine's own
    release, or one of Debian's backports. LabError with the way out when there is none."""
    if given := os.environ.get(TARBALL):
        return from_tarball(Path(given))
    return download(directory, *locate(directory))


def locate(directory: Path) -> tuple[str, Path | None]:
    """The source package to take, and the apt configuration that knows it: None for the machine's own, else one in
    `directory`. LabError with the way out when there is none."""
    configuration = None
    packages = suitable(apt(["apt-cache", "pkgnames", "linux-source-"], None).split())
    if not packages:
        mirror = find_mirror(directory / "own")
        if not mirror:
            raise LabError(f"this machine has no Debian mirror and no linux-source of 7.2 or later: {WAY_OUT}")
        signed = f"[signed-by={KEYS}] " if KEYS.exists() else ""
        configuration = private_configuration(directory / "backports", f"deb {signed}{mirror} {SUITE} main\n")
        env = os.environ | {"APT_CONFIG": str(configuration)}
        run_with_progress(["apt-get", "update"], f"fetching the list of packages in {SUITE}", env=env)
        packages = suitable(apt(["apt-cache", "pkgnames", "linux-source-"], configuration).split())
    if not packages:
        raise LabError(f"neither this machine's release nor {SUITE} has a linux-source from 7.2 to 7.x: {WAY_OUT}")
    return packages[0], configuration


def from_tarball(path: Path) -> Source:
    """A tarball that the caller has. Its version is read from its name."""
    match = re.search(r"(\d+\.\d+(?:\.\d+)?)[^/]*\.tar\.\w+$", path.name)
    if not path.is_file() or match is None:
        raise LabError(f"{TARBALL}={path} is not a file named like linux-7.2.12.tar.xz")
    return Source(match[1], path)


def download(directory: Path, package: str, configuration: Path | None) -> Source:
    """Download a source package and take the tarball out of it."""
    version = choose_version(apt(["apt-cache", "madison", package], configuration))
    if not version:
        raise LabError(f"apt knows {package} but no version of it: apt-get update, or {WAY_OUT}")
    env = os.environ | ({"APT_CONFIG": str(configuration)} if configuration else {})
    name = f"{package}={version}"
    about = apt(["apt-get", "download", "--print-uris", name], configuration).split()
    total = int(about[2]) >> 20 if len(about) > 2 and about[2].isdigit() else 0
    into = directory / "download"
    into.mkdir()

    def size() -> str:
        return f"{sum(file.stat().st_size for file in into.rglob('*') if file.is_file()) >> 20} of {total} MB"

    command = ["apt-get", "download", "-q", name]
    run_with_progress(command, f"downloading {package} {version}", cwd=into, env=env, look=size)
    with step(f"unpacking {package}"):
        package_file = next(into.glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package_file), str(into)], check=True, capture_output=True)
        package_file.unlink()
    tarball = next((into / "usr/src").rglob("linux-source-*.tar.*"), None)
    if tarball is None:
        raise LabError(f"{package} has no tarball in /usr/src: {WAY_OUT}")
    return Source(version, tarball)
