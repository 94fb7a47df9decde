"""kube-apiserver and etcd as processes of this machine: up in four seconds, with verbs for what may happen to them."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from ipvs_lab import tools
from ipvs_lab.kubernetes.certificates import Authority
from ipvs_lab.kubernetes.ports import free_ports
from ipvs_lab.kubernetes.programs import find_programs
from ipvs_lab.machine import LabError
from ipvs_lab.scratch import Scratch
from ipvs_lab.site import ADDRESS

START_SECONDS = 60.0
ISSUER = "https://kubernetes.default.svc"
SERVICE_CIDR = "10.96.0.0/16"
FIRST_SERVICE = "10.96.0.1"


class ControlPlane:
    """Use as a context manager, or ``start`` and ``close``. Everybody is who a certificate or token says; nobody is
    anonymous but for asking how the server is; RBAC and the node authorizer decide. No controller runs: namespaces
    have no service accounts but those that are made, and nothing is collected as garbage.

    Start programs from the main thread only: they end with the thread that started them.

    listen    the IPv4 address that the API server is bound to
    port      of the API server; 0: any that is free
    prefix    what every program is run behind (a site's ``prefix``)
    safe      etcd writes through to the disk; a test's data need not survive a power failure
    """

    def __init__(
        self,
        *,
        listen: str = "127.0.0.1",
        port: int = 0,
        prefix: Sequence[str] = (),
        programs: Path | None = None,
        safe: bool = False,
    ) -> None:
        tools.ensure(tools.CONTROL_PLANE)
        self.programs = programs or find_programs()
        self._scratch = Scratch("ipvs-control-plane")
        self.directory = self._scratch.path
        self.listen, self._prefix, self._safe = listen, list(prefix), safe
        self._authority = Authority(self.directory / "pki")
        self._etcd_port, self._peer_port, free = free_ports(3) if not prefix else [2379, 2380, 6443]
        self.port = port or free
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
            *([] if self._safe else ["--unsafe-no-fsync"]),
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
            f"IP:{ADDRESS}",
            f"IP:{FIRST_SERVICE}",
            "DNS:localhost",
            "DNS:kubernetes.default.svc",
        )
        certificate, key = self._authority.issue("server", "kube-apiserver", addresses=names)
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
            *self.api_arguments(),
        )
        self.await_ready()

    def api_arguments(self) -> Sequence[str]:
        """More arguments for the API server; they win."""
        return ()

    def await_ready(self) -> None:
        """Until the API server answers that it is ready."""
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            for name, process in (("etcd", self._etcd), ("kube-apiserver", self._api)):
                if process is None or process.poll() is not None:
                    raise LabError(f"{name} is not running:\n{self._logs()}")
            if time.monotonic() > deadline:
                raise LabError(f"kube-apiserver is not ready after {START_SECONDS:g} s:\n{self._logs()}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        asked = self._curl("--max-time", "5", "--cacert", str(self.authority), f"{self.url}/readyz")
        return asked.stdout == "ok"

    def _curl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [*self._prefix, "curl", "--silent", "--show-error", "--fail", "--noproxy", "*", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def stop_api(self) -> None:
        """The API server ends in good order; etcd goes on."""
        end_process(self._api, signal.SIGTERM)

    def kill_api(self) -> None:
        """The API server dies at once; etcd goes on."""
        end_process(self._api, signal.SIGKILL)

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
        self.kill_api()
        self.compact()
        self.start_api()

    def compact(self) -> None:
        """etcd keeps nothing but what is there now."""
        revision = int(json.loads(self._etcd_call("kv/range", {"key": "AA=="}))["header"]["revision"])
        self._etcd_call("kv/compaction", {"revision": str(revision), "physical": True})

    def back_up(self) -> Path:
        """What is stored now, for ``restore``. The API server is away meanwhile."""
        path = self.directory / f"backup-{time.monotonic_ns()}"
        with self._stopped():
            shutil.copytree(self.directory / "etcd", path)
        return path

    def restore(self, backup: Path) -> None:
        """What was stored at the time of a backup, its resource versions too: all history since then is void."""
        with self._stopped():
            shutil.rmtree(self.directory / "etcd")
            shutil.copytree(backup, self.directory / "etcd")

    @contextlib.contextmanager
    def _stopped(self) -> Iterator[None]:
        self.kill_api()  # in good order it would wait for watches to end
        end_process(self._etcd, signal.SIGTERM)
        try:
            yield
        finally:
            self.start()

    def _etcd_call(self, method: str, body: dict[str, object]) -> str:
        url = f"http://127.0.0.1:{self._etcd_port}/v3/{method}"
        done = self._curl("--max-time", "10", "--data", json.dumps(body), url)
        if done.returncode:
            raise LabError(f"etcd, {method}: {done.stderr.strip()}\n{self.log('etcd')}")
        return done.stdout

    def kubeconfig(
        self, user: str = "admin", groups: Sequence[str] = ("system:masters",), *, address: str = ""
    ) -> Path:
        """A kubeconfig file with a certificate for this user. ``address``: where its readers reach the server, if not
        where it listens (a site's ADDRESS)."""
        name = _file_name(user, *groups)
        path = self.directory / f"{_file_name(user, *groups, address)}.kubeconfig"
        if not path.exists():
            certificate, key = self._authority.issue(name, user, groups)
            self._write_kubeconfig(path, address, {"client-certificate": str(certificate), "client-key": str(key)})
        return path

    def token_kubeconfig(self, name: str, token: str, *, address: str = "") -> Path:
        """A kubeconfig file with a bearer token. ``name``: of the file; one that is there is written anew."""
        path = self.directory / f"{_file_name(name, address)}.kubeconfig"
        self._write_kubeconfig(path, address, {"token": token})
        return path

    def _write_kubeconfig(self, path: Path, address: str, user: dict[str, str]) -> None:
        server = f"https://{address}:{self.port}" if address else self.url
        cluster = {"server": server, "certificate-authority": str(self.authority)}
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
        own = {"HOME": str(self.directory), "NO_PROXY": "*", "no_proxy": "*"}  # kubectl caches what the server offers
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, env=os.environ | own, timeout=120
        )
        if check and done.returncode:
            raise LabError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done

    def remove_namespace(self, name: str) -> None:
        """Delete a namespace with all in it, as the namespace controller would, which does not run here. An object
        with finalizers stays, for whoever takes them off."""
        resources = self.kubectl("api-resources", "--namespaced", "--verbs=list,delete", "--output=name").stdout.split()
        now = ["--force", "--grace-period=0", "--wait=false"]  # no kubelet would say that a pod has ended
        self.kubectl("delete", ",".join(resources), "--all", f"--namespace={name}", *now)
        self.kubectl("delete", "namespace", name, "--wait=false")
        settled = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []}}
        path = f"/api/v1/namespaces/{name}/finalize"
        self.kubectl("replace", f"--raw={path}", "--filename=-", stdin=json.dumps(settled))

    def log(self, program: str, lines: int = 30) -> str:
        """The end of a program's log; all of it is the file ``<program>.log`` in ``directory``."""
        with contextlib.suppress(FileNotFoundError):
            told = (self.directory / f"{program}.log").read_text(errors="replace").splitlines()
            return "".join(f"{line}\n" for line in told[-lines:])
        return ""

    def _logs(self) -> str:
        return "".join(f"{name}:\n{self.log(name)}" for name in ("etcd", "kube-apiserver"))

    def _run(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        if threading.current_thread() is not threading.main_thread():
            raise LabError(f"{name} must be started from the main thread: it would end with this one")
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
            end_process(process, signal.SIGKILL)
        self._scratch.close()

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


def _file_name(*parts: str) -> str:
    return "+".join(part.translate(str.maketrans(":/", "--")) for part in parts if part)


def end_process(process: "subprocess.Popen[bytes] | None", how: signal.Signals) -> None:
    """Send a signal and wait for the end, which is forced after 20 s; also of one that is paused."""
    if process is not None and process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
