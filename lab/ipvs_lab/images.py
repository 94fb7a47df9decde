"""The project's images from this checkout, without Docker and without a registry: a base by mmdebstrap, then buildah on
the project's own Dockerfiles. They end as docker-archive files in the cache, named for what they were made of."""

import fnmatch
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ipvs_lab import tools
from ipvs_lab.kernel import cache_directory, locked
from ipvs_lab.machine import LabError
from ipvs_lab.progress import run_with_progress
from ipvs_lab.source import find_mirror

CHECKOUT = Path(__file__).parents[2]
SUITE = "trixie"
BASE = "docker.io/library/debian:trixie-slim"
"""What the Dockerfiles call their base. The lab's own has that name in a storage that is gone after the build."""
IN_BASE = ("kmod", "netbase", "nftables", "python3", "python3-venv")
"""What the Dockerfiles install, so that both find it there."""
TOOLS = (tools.Tool("mmdebstrap", "mmdebstrap"), tools.Tool("buildah", "buildah"))
EPOCH = 1580601600  # 2020-02-02, the one date of all files: same content, same layers
CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
DOCKERFILES = {"ipvs-operator": "operator/Dockerfile", "ipvs-agent": "node-agent/Dockerfile"}


@dataclass(frozen=True)
class Image:
    """``name`` is what a cluster calls it, ``archive`` a docker-archive that holds it under that name."""

    name: str
    archive: Path

    @property
    def tag(self) -> str:
        return self.name.rpartition(":")[2]


def context(checkout: Path) -> Iterator[Path]:
    """The files that `.dockerignore` lets into a build, sorted."""
    lines = (checkout / ".dockerignore").read_text().splitlines()
    admitted = [line.removeprefix("!") for line in lines if line.startswith("!")]
    refused = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    for name in sorted(admitted):
        top = checkout / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            parts = path.relative_to(checkout).parts
            ignored = any(fnmatch.fnmatch(part, rule) for part in parts for rule in refused)
            if (path.is_file() or path.is_symlink()) and not ignored:
                yield path


def digest(checkout: Path, dockerfile: str) -> str:
    """Of all that goes into an image."""
    made = hashlib.sha256(f"{SUITE} {IN_BASE} {EPOCH}".encode())
    for path in (checkout / dockerfile, *context(checkout)):
        content = bytes(path.readlink()) if path.is_symlink() else path.read_bytes()
        made.update(f"{path.relative_to(checkout)}\n{len(content)}\n".encode() + content)
    return made.hexdigest()[:12]


def find_images(checkout: Path = CHECKOUT) -> list[Image]:
    """Operator and agent, built first if they are not there yet (some minutes, with progress)."""
    cache = cache_directory() / "images"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".build-") as place:
        source = Path(place, "source")
        _copy(checkout, source)  # what is built is what was counted, also while somebody edits
        images = []
        for name, dockerfile in DOCKERFILES.items():
            tag = digest(source, dockerfile)
            images.append(Image(f"localhost/{name}:{tag}", cache / f"{name}-{tag}.tar"))
        if not all(image.archive.is_file() for image in images):
            tools.ensure(TOOLS)
            with locked(cache_directory() / "images.lock"):
                _build_all(Path(place), source, images)
    return images


def _copy(checkout: Path, source: Path) -> None:
    for path in (*context(checkout), checkout / ".dockerignore", *(checkout / name for name in DOCKERFILES.values())):
        target = source / path.relative_to(checkout)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target, follow_symlinks=False)


def _build_all(storage: Path, source: Path, images: list[Image]) -> None:
    """Build those that are not there: somebody else may have built them meanwhile."""
    if lacking := [image for image in images if not image.archive.is_file()]:
        base = find_base()
        try:
            _import_base(storage, base)
            for image in lacking:
                _build(storage, source, image)
        finally:
            _buildah(storage, "rm", "--all")


def find_base() -> Path:
    """A Debian with what images are made of, as a tar file; made from the mirror that this machine uses."""
    key = hashlib.sha256(f"{SUITE} {IN_BASE}".encode()).hexdigest()[:12]
    base = cache_directory() / "images" / f"base-{SUITE}-{key}.tar"
    if base.is_file():
        return base
    with tempfile.TemporaryDirectory() as place:
        mirror = find_mirror(Path(place))
    if not mirror:
        raise LabError("this machine uses no Debian mirror, so there is nothing to make a base image from")
    made = base.with_name(f".{base.name}")
    command = ["mmdebstrap", "--variant=minbase", "--format=tar", f"--include={','.join(IN_BASE)}", SUITE, str(made)]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH)}
    run_with_progress([*command, mirror], f"making a base of Debian {SUITE}", env=environment, detail=str)
    made.rename(base)
    return base


def _command(storage: Path, *arguments: str) -> list[str]:
    places = ["--root", str(storage / "root"), "--runroot", str(storage / "run")]
    return ["buildah", "--storage-driver", "vfs", *places, *arguments]


def _buildah(storage: Path, *arguments: str) -> str:
    done = subprocess.run(_command(storage, *arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"`buildah {' '.join(arguments)}` ended with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def _import_base(storage: Path, base: Path) -> None:
    container = _buildah(storage, "from", "scratch")
    _buildah(storage, "add", container, str(base), "/")
    _buildah(storage, "commit", "--quiet", "--rm", container, BASE)


def _build(storage: Path, source: Path, image: Image) -> None:
    """Build an image and put it into the cache, whole or not at all."""
    name = image.name.rpartition("/")[2].partition(":")[0]
    command = ["bud", "--isolation", "chroot", "--pull-never", "--network", "host", "--timestamp", str(EPOCH)]
    command += ["--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}", "--build-arg", f"VERSION={image.tag}"]
    if index := os.environ.get("PIP_INDEX_URL"):
        command += ["--build-arg", f"PIP_INDEX_URL={index}"]
    if certificates := next(filter(None, map(os.environ.get, CERTIFICATES)), ""):
        # Not over /etc/ssl/certs, where the build's own packages write.
        command += ["--volume", f"{certificates}:/build/certificates.pem:ro"]
        command += ["--build-arg", "PIP_CERT=/build/certificates.pem"]
    command += ["--file", str(source / DOCKERFILES[name]), "--tag", image.name, str(source)]
    environment = os.environ | {"TMPDIR": str(storage)}
    run_with_progress(_command(storage, *command), f"building {image.name}", env=environment, detail=str)
    made = image.archive.with_name(f".{image.archive.name}")
    made.unlink(missing_ok=True)
    _buildah(storage, "push", "--quiet", image.name, f"docker-archive:{made}:{image.name}")
    made.rename(image.archive)
    _buildah(storage, "rm", "--all")
