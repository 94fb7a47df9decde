"""Container images made from nothing: one static program each, in an OCI archive, the same bytes from the same
program. Kept in the cache, by what they are made of."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

from ipvs_lab.kernel import cache_directory, locked
from ipvs_lab.kubernetes.programs import find_go
from ipvs_lab.machine import LabError
from ipvs_lab.progress import step

SOURCES = Path(__file__).with_name("programs")
PAUSE, WEB = "ipvs.dev/lab/pause:1", "ipvs.dev/lab/web:1"
MEDIA = "application/vnd.oci.image"


def archive(name: str, file: str, program: bytes) -> bytes:
    """An image called `name` whose only file is the program, as an OCI archive."""
    layer = _tar({file: program}, 0o755)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": [f"/{file}"], "User": "65532:65532"},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs: dict[str, bytes] = {}

    def blob(kind: str, content: bytes) -> dict[str, object]:
        digest = _digest(content)
        blobs[f"blobs/sha256/{digest.removeprefix('sha256:')}"] = content
        return {"mediaType": f"{MEDIA}.{kind}", "digest": digest, "size": len(content)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{MEDIA}.manifest.v1+json",
        "config": blob("config.v1+json", _json(config)),
        "layers": [blob("layer.v1.tar", layer)],
    }
    described = blob("manifest.v1+json", _json(manifest))
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    index = {"schemaVersion": 2, "manifests": [described | {"annotations": annotations}]}
    layout = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": _json(index)}
    return _tar(layout | blobs, 0o644)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def own_images() -> list[Path]:
    """The archives of PAUSE and WEB, made first if they are not there yet."""
    sources = sorted(path for path in SOURCES.rglob("*") if path.is_file())
    key = hashlib.sha256(b"\0".join(path.read_bytes() for path in (*sources, Path(__file__)))).hexdigest()[:12]
    made = cache_directory() / f"pod-images-{key}"
    found = [made / "pause.tar", made / "web.tar"]
    if all(path.is_file() for path in found):
        return found
    cache_directory().mkdir(parents=True, exist_ok=True)
    with locked(cache_directory() / "pod-images.lock"), step("making images for pods of the lab (once)"):
        made.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made) as directory:
            pause, web = Path(directory) / "pause", Path(directory) / "web"
            _make("gcc", "-static", "-Os", "-s", "-o", str(pause), str(SOURCES / "pause.c"))
            go = [find_go(), "build", "-trimpath", "-ldflags=-s -w", "-o", str(web), "."]
            static = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"}
            _make(*go, cwd=SOURCES / "web", environment=static)
            for name, program, path in ((PAUSE, pause, found[0]), (WEB, web, found[1])):
                whole = Path(directory) / path.name
                whole.write_bytes(archive(name, program.name, program.read_bytes()))
                whole.rename(path)
    return found


def _make(*command: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"`{' '.join(command)}` ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
