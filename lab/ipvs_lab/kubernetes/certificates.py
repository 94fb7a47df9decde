"""A certificate authority of a control plane's own, by the openssl program: every distribution has it, and the lab has
no Python dependencies."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ipvs_lab.machine import LabError

DAYS = "3650"
SPECIAL, BEHIND_BACKSLASH = re.compile(r"[/+\\]"), r"\\\g<0>"
# Complete, so that nothing depends on the machine's own openssl.cnf. Strict clients (Python 3.13) want all of it.
CONFIGURATION = """\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def subject(user: str, groups: Sequence[str]) -> str:
    """Who a certificate is for, as `openssl -subj` takes it: Kubernetes reads groups from O and the user from CN."""
    parts = [*(("O", group) for group in groups), ("CN", user)]
    return "".join(f"/{field}={SPECIAL.sub(BEHIND_BACKSLASH, value)}" for field, value in parts)


class Authority:
    """Keys and certificates below ``directory``; made once, reused by a control plane that starts again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.certificate = directory / "ca.crt"
        (directory / "openssl.cnf").write_text(CONFIGURATION)
        if not self.certificate.exists():
            self.key("ca")
            self._openssl(
                "req", "-x509", "-new", "-config", "openssl.cnf", "-extensions", "authority", "-key", "ca.key",
                "-subj", "/CN=ipvs-lab", "-days", DAYS, "-out", "ca.crt",
            )  # fmt: skip

    def key(self, name: str) -> Path:
        """A private key, made where there is none."""
        path = self.directory / f"{name}.key"
        if not path.exists():
            self._openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", path.name)
        return path

    def issue(
        self, name: str, user: str, groups: Sequence[str] = (), addresses: Sequence[str] = ()
    ) -> tuple[Path, Path]:
        """Certificate and key, in files called ``name``. ``addresses``: ``IP:127.0.0.1``, ``DNS:name``."""
        key, certificate = self.key(name), self.directory / f"{name}.crt"
        request = self._openssl(
            "req", "-new", "-config", "openssl.cnf", "-utf8", "-key", key.name, "-subj", subject(user, groups)
        )
        extensions = self.directory / f"{name}.ext"
        alternatives = f"subjectAltName = {', '.join(addresses)}\n" if addresses else ""
        extensions.write_text(CONFIGURATION + alternatives)
        self._openssl(
            "x509", "-req", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", DAYS,
            "-extfile", extensions.name, "-extensions", "leaf", "-out", certificate.name, stdin=request,
        )  # fmt: skip
        return certificate, key

    def _openssl(self, *arguments: str, stdin: str = "") -> str:
        try:
            done = subprocess.run(
                ["openssl", *arguments], cwd=self.directory, input=stdin, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise LabError("openssl is not installed: sudo apt-get install openssl") from None
        if done.returncode:
            raise LabError(f"openssl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout
