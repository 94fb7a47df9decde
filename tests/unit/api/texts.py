"""Manifests that the tests write, and what they are told."""

from textwrap import dedent

from ipvs_api.manifests import Manifest, read_manifest
from ipvs_api.meta import ObjectKey


def written(text: str) -> Manifest:
    return read_manifest(dedent(text).encode(), "file.yaml")


def told(manifest: Manifest) -> list[str]:
    return [str(error) for error in manifest.errors]


SERVICE = """\
apiVersion: ipvs.dev/v1alpha1
kind: VirtualService
metadata: {name: web}
spec:
  directorGroup: edge
  ports:
  - {name: http, port: 80}
  backends:
    static:
    - {address: 10.0.0.11}
"""
WEB = ObjectKey("VirtualService", "default", "web")


def with_line(line: str) -> Manifest:
    """A good virtual service with one more line under ``spec``, its eleventh."""
    return read_manifest(f"{SERVICE}  {line}\n".encode(), "file.yaml")
