"""kube-apiserver and etcd as processes of this machine: up in four seconds, with verbs for what may happen to them."""

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from urllib.error import URLError
from urllib.request import urlopen

from ipvs_lab.kubernetes.certificates import Authority
from ipvs_lab.kubernetes.programs import find_programs
from ipvs_lab.machine import LabError

START_SECONDS = 60.0
ISSUER = "https://kubernetes.default.svc"
SERVICE_CIDR = "10.96.0.0/16"
FIRST_SERVICE = "10.96.0.1"


class ControlPlane:
    """Use as a context manager, or ``start`` and ``close``. Everybody is who a certificate or token says; nobody is
    anonymous but for asking how the server is; RBAC and the node authorizer decide.

    listen    the address that the API server is bound to
    prefix    what every program is run behind (a site's ``prefix``)
    """

    def __init__(self, *, listen: str = "127.0.0.1", prefix: Sequence[str] = (), programs: Path | None = None) -> None:
        self.programs = programs or find_programs()
        self.directory = Path(tempfile.mkdtemp(prefix="ipvs-api-"))
        self.listen, self._prefix = listen, list(prefix)
        self._authority = Authority(self.directory / "pki")
        ports = free_ports(3) if not prefix else [2379, 2380, 6443]
        self._etcd_port, self._peer_port, self.port = ports
        self._etcd: subprocess.Popen[bytes] | None = None
        self._api: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"https://{self.listen}:{self.port}"

    @property
    def authority(self) -> Path:
        """The file of its certificate authority."""
        return self._authority.certificate

    def start(self) -> None:
        """Both programs; returns when the API server is ready. LabError with the log's end where it does not become
        so."""
        self.start_etcd()
        self.start_api()

    def start_etcd(self) -> None:
        url, peers = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        self._etcd = self._run(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            "--unsafe-no-fsync",  # a test's data need not survive a power failure
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--log-level=warn",
        )

    def start_api(self) -> None:
        names = (
            f"IP:{self.listen}",
            "IP:127.0.0.1",
            f"IP:{FIRST_SERVICE}",
            "DNS:localhost",
            "DNS:kubernetes.default.svc",
        )
        certificate, key = self._authority.issue("server", "/CN=kube-apiserver", names)
        signing = self._authority.key("service-accounts")
        self._api = self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--bind-address={self.listen}",
            f"--advertise-address={self.listen}" if self.listen != "127.0.0.1" else "--endpoint-reconciler-type=none",
            f"--secure-port={self.port}",
            f"--client-ca-file={self.authority}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--service-account-key-file={signing}",
            f"--service-account-signing-key-file={signing}",
            f"--service-account-issuer={ISSUER}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--authorization-mode=Node,RBAC",
            f"--cert-dir={self.directory / 'certs'}",
            "--kubelet-preferred-address-types=InternalIP",
        )
        self.await_ready()

    def await_ready(self) -> None:
        """Until the API server answers that it is ready."""
        context = ssl.create_default_context(cafile=str(self.authority))
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready(context):
            if self._api is None or self._api.poll() is not None:
                raise LabError(f"kube-apiserver ended:\n{self.log('kube-apiserver')}{self.log('etcd')}")
            if time.monotonic() > deadline:
                raise LabError(f"kube-apiserver is not ready after {START_SECONDS:g} s:\n{self.log('kube-apiserver')}")
            time.sleep(0.05)

    def _is_ready(self, context: ssl.SSLContext) -> bool:
        if self._prefix:  # it listens where only programs behind the prefix come
            command = [*self._prefix, "curl", "-sf", "-m", "5", "--cacert", str(self.authority), f"{self.url}/readyz"]
            return subprocess.run(command, capture_output=True, check=False).stdout == b"ok"
        with (
            contextlib.suppress(URLError, OSError),
            urlopen(f"{self.url}/readyz", timeout=5, context=context) as answer,
        ):
            return bool(answer.read() == b"ok")
        return False

    def stop_api(self) -> None:
        """The API server ends in good order; etcd goes on."""
        _end(self._api, signal.SIGTERM)

    def kill_api(self) -> None:
        """The API server dies at once; etcd goes on."""
        _end(self._api, signal.SIGKILL)

    def restart_api(self) -> None:
        self.stop_api()
        self.start_api()

    def pause(self) -> None:
        """The API server says nothing, with all connections open."""
        assert self._api is not None
        self._api.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._api is not None
        self._api.send_signal(signal.SIGCONT)

    def forget_history(self) -> None:
        """After this, watches from older resourceVersions are refused (410): the watch cache starts anew, and etcd is
        compacted."""
        self.stop_api()
        self.compact()
        self.start_api()

    def compact(self) -> None:
        """etcd keeps nothing but what is there now."""
        revision = int(json.loads(self._etcd_call("kv/range", {"key": "AA=="}))["header"]["revision"])
        self._etcd_call("kv/compaction", {"revision": str(revision), "physical": True})

    def _etcd_call(self, method: str, body: dict[str, object]) -> str:
        command = [*self._prefix, "curl", "-sf", "-m", "10", "-d", json.dumps(body)]
        url = f"http://127.0.0.1:{self._etcd_port}/v3/{method}"
        return subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout

    def kubeconfig(self, user: str = "admin", groups: Sequence[str] = ("system:masters",)) -> Path:
        """A kubeconfig file with a certificate for this user."""
        path = self.directory / f"{user.replace(':', '-')}.kubeconfig"
        if not path.exists():
            subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
            certificate, key = self._authority.issue(path.stem, subject)
            self._write_kubeconfig(path, {"client-certificate": str(certificate), "client-key": str(key)})
        return path

    def token_kubeconfig(self, name: str, token: str) -> Path:
        """A kubeconfig file with a bearer token."""
        path = self.directory / f"{name}.kubeconfig"
        self._write_kubeconfig(path, {"token": token})
        return path

    def _write_kubeconfig(self, path: Path, user: dict[str, str]) -> None:
        cluster = {"server": self.url, "certificate-authority": str(self.authority)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "user"}}],
            "current-context": "lab",
        }
        path.write_text(json.dumps(content, indent=1))
        path.chmod(0o600)

    def service_account_token(self, namespace: str, name: str, pod: str = "") -> str:
        """A token of a service account (TokenRequest). Bound to ``pod``, it names the pod's node in its claims."""
        bound = ["--bound-object-kind=Pod", f"--bound-object-name={pod}"] if pod else []
        return self.kubectl("create", "token", name, f"--namespace={namespace}", *bound).stdout.strip()

    def kubectl(
        self, *arguments: str, stdin: str = "", check: bool = True, kubeconfig: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run kubectl as administrator (or whom ``kubeconfig`` says); LabError with what it said where it fails."""
        file = kubeconfig or self.kubeconfig()
        command = [*self._prefix, str(self.programs / "kubectl"), f"--kubeconfig={file}", *arguments]
        home = {"HOME": str(self.directory)}  # kubectl caches what the server offers
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, env=os.environ | home, timeout=120
        )
        if check and done.returncode:
            raise LabError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done

    def log(self, program: str, lines: int = 30) -> str:
        """The end of a program's log."""
        with contextlib.suppress(FileNotFoundError):
            return (
                "\n".join((self.directory / f"{program}.log").read_text(errors="replace").splitlines()[-lines:]) + "\n"
            )
        return ""

    def _run(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*self._prefix, "setpriv", "--pdeathsig", "KILL", str(self.programs / name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                start_new_session=True,
            )

    def close(self) -> None:
        """End everything and remove its files."""
        for process in (self._api, self._etcd):
            _end(process, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> "ControlPlane":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _end(process: "subprocess.Popen[bytes] | None", how: signal.Signals) -> None:
    if process is not None and process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_true(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Until ``condition`` holds; AssertionError naming ``what`` after so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not after {seconds:g} s"
        time.sleep(0.02)
