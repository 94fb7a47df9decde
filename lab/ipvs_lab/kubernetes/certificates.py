"""A certificate authority of a control plane's own, by the openssl program (every distribution has it)."""

import subprocess
from pathlib import Path

from ipvs_lab.machine import LabError

DAYS = "3650"


class Authority:
    """Keys and certificates below ``directory``; made once, reused by a control plane that starts again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.certificate = directory / "ca.crt"
        if not self.certificate.exists():
            self.key("ca")
            self._openssl(
                "req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=ipvs-lab", "-days", DAYS, "-out", "ca.crt"
            )

    def key(self, name: str) -> Path:
        """A private key, made where there is none."""
        path = self.directory / f"{name}.key"
        if not path.exists():
            self._openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", path.name)
        return path

    def issue(self, name: str, subject: str, addresses: tuple[str, ...] = ()) -> tuple[Path, Path]:
        """Certificate and key. ``subject``: ``/O=group/CN=user``. ``addresses``: ``IP:127.0.0.1``, ``DNS:name``."""
        key, certificate = self.key(name), self.directory / f"{name}.crt"
        request = self._openssl("req", "-new", "-key", key.name, "-subj", subject)
        extensions = self.directory / f"{name}.ext"
        lines = ["keyUsage=digitalSignature", "extendedKeyUsage=serverAuth,clientAuth"]
        lines += [f"subjectAltName={','.join(addresses)}"] if addresses else []
        extensions.write_text("\n".join(lines) + "\n")
        self._openssl(
            "x509", "-req", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", DAYS,
            "-extfile", extensions.name, "-out", certificate.name, stdin=request,
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
