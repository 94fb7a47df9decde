"""What tests do with an installed cluster: declare, ask through a VIP, put under load, wait for what kernels have."""

import contextlib
import ipaddress
import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.testbed import CLIENT, Testbed

from ipvs_lab.net.waiting import await_condition

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "ipvs-operator"
CLIENT_SCRIPT = Path(__file__).with_name("client.py")
NAMESPACE = "ipvs-system"
GROUP = "default"
DIRECTORS = 2
FORWARDINGS = ("NAT", "DR", "TUN")
READY_SECONDS = 120
PRE_STOP_SECONDS = 5  # as in docs/kubernetes.md
PARTS = "app.kubernetes.io/name=ipvs-operator,app.kubernetes.io/component="

Object = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """What a load of requests came to: see client.py. Times in seconds."""

    count: int
    seconds: float
    answers: dict[str, int]
    failed: int
    failures: list[tuple[float, str, str]]
    slow: int
    slowest: list[tuple[float, float]]
    again: int
    behind: float
    median: float | None
    p99: float | None
    longest: float | None

    def __str__(self) -> str:
        return (
            f"{self.count} requests in {self.seconds:g} s, {self.failed} failed {self.failures}, {self.slow} took over "
            f"a second {self.slowest[:3]}, {self.again} packets sent again, median {self.median} s, p99 {self.p99} s, "
            f"{self.behind} s behind"
        )


@dataclass
class Seen:
    """Filled when the load has ended."""

    told: Told | None = None

    @property
    def result(self) -> Told:
        assert self.told is not None, "the load has not ended"
        return self.told


@dataclass
class World:
    """A cluster with the project installed in it."""

    testbed: Testbed
    helm_program: Path
    home: Path
    _taken: int = field(default=0)

    # Installing.

    def helm(self, *arguments: str, timeout: float = 400) -> str:
        command = [str(self.helm_program), *arguments, f"--kubeconfig={self.testbed.kubeconfig}"]
        environment = os.environ | {"HOME": str(self.home), "NO_PROXY": "*", "no_proxy": "*"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=timeout)
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}\n{self.pods()}"
        return done.stdout

    def chart(self, verb: str, *values: str) -> None:
        """`helm install` or `upgrade` of this checkout's chart, with the images of this checkout; all is ready on
        return."""
        images = [
            f"--set={role}.image.repository={image.repository},{role}.image.tag={image.tag}"
            for role, image in self.testbed.images.items()
        ]
        place = (f"--namespace={NAMESPACE}", "--wait", "--timeout=5m")
        self.helm(verb, "ipvs", str(CHART), *place, *images, *self.testbed.values, *values)

    def install(self, directors: Sequence[str]) -> None:
        """The chart, a DirectorGroup of these nodes, and six pods behind the Service `web`, which are ready on
        return."""
        self.kubectl("label", "node", *directors, "ipvs.dev/director=true", "--overwrite")
        self.chart("upgrade", "--install")
        known = self.testbed.addresses.values()
        group = director_group([one.ranges for one in known], [one.network for one in known])
        self.apply(group, deployment("web", self.testbed.web, 6), service("web", "web"))
        self.rolled("deployment/web")

    def make_namespace(self) -> None:
        """As docs/install.md has it."""
        self.kubectl("create", "namespace", NAMESPACE)
        self.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=privileged")

    # Declaring.

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        return self.testbed.kubectl(*arguments, stdin=stdin, check=check).stdout

    def get(self, *what: str) -> Any:
        return json.loads(self.kubectl("get", *what, "--output=json"))

    def apply(self, *objects: Object) -> None:
        self.kubectl("apply", "--filename=-", stdin=as_list(objects))

    def vips(self) -> dict[int, str]:
        """An address of each family that no test has had before."""
        self._taken += 1
        return {
            family: str(ipaddress.ip_address(known.first) + self._taken - 1)
            for family, known in self.testbed.addresses.items()
        }

    @contextlib.contextmanager
    def declared(self, *objects: Object) -> Iterator[None]:
        """These objects, for a while; gone with all plans of theirs on return."""
        with self.undeclaring(*objects):
            self.apply(*objects)
            yield

    @contextlib.contextmanager
    def undeclaring(self, *objects: Object) -> Iterator[None]:
        """What the context declares of these is gone with all plans on return."""
        try:
            yield
        finally:
            self.kubectl("delete", "--filename=-", "--ignore-not-found", "--timeout=60s", stdin=as_list(objects))
        names = [one["metadata"]["name"] for one in objects]
        self.await_gone(names)

    def await_gone(self, names: list[str]) -> None:
        """Until no plan of these virtual services is left: directors have drained."""

        def gone() -> bool:
            plans = self.kubectl("get", "ivsp", f"--namespace={NAMESPACE}", "--output=name").split()
            return not any(f"/default.{name}." in plan for name in names for plan in plans)

        await_condition(gone, 180, f"no plan of {names} is left", 0.5)

    def await_ready(self, name: str) -> None:
        """Until the VirtualService is Ready."""
        wait = ("wait", f"ivs/{name}", "--for=condition=Ready", f"--timeout={READY_SECONDS}s")
        done = self.testbed.kubectl(*wait, check=False)
        assert done.returncode == 0, done.stderr + self.explain(name)

    def explain(self, name: str) -> str:
        told = [self.kubectl("get", "ivs", name, "--output=yaml", check=False), self.pods()]
        return "\n".join([*told, self.kubectl("get", "ipvsnodes", "--output=wide", check=False), self.logs()])

    def pods(self) -> str:
        return self.kubectl("get", "pods", "--all-namespaces", "--output=wide", check=False)

    def logs(self) -> str:
        return "".join(
            self.kubectl("logs", f"--namespace={NAMESPACE}", f"--selector={PARTS}{part}", "--tail=30", "--prefix",
                         check=False)
            for part in ("operator", "agent")
        )  # fmt: skip

    def pods_of(self, app: str) -> dict[str, str]:
        """Pods that are ready and not on their way out: each with its node."""
        return {
            pod["metadata"]["name"]: pod["spec"]["nodeName"]
            for pod in self.get("pods", f"--selector=app={app}")["items"]
            if "deletionTimestamp" not in pod["metadata"]
            and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
        }

    def rolled(self, what: str, namespace: str = "default") -> None:
        """Until a rollout is complete."""
        self.kubectl("rollout", "status", what, f"--namespace={namespace}", "--timeout=180s")

    # Asking.

    def ask(self, address: str, count: int, proto: str = "tcp", port: int = 80) -> list[tuple[str, str]]:
        """From the client: who answered, and the client's address as that one saw it."""
        script = self.testbed.client_script(CLIENT_SCRIPT)
        told = json.loads(self.testbed.run(CLIENT, *script, "ask", proto, address, str(port), str(count)).stdout)
        failed = [answer for answer in told if answer.startswith("! ")]
        assert not failed, f"{len(failed)} of {count} requests to {address} failed: {failed}\n{self.pods()}"
        return [tuple(answer.split()) for answer in told]

    @contextlib.contextmanager
    def load(self, addresses: Iterable[str], rate: int) -> Iterator[Seen]:
        """So many requests a second from the client, to these addresses in turn, as long as the context lasts; they
        have begun on entry."""
        script = self.testbed.client_script(CLIENT_SCRIPT)
        seen = Seen()
        with self.testbed.start(CLIENT, *script, "load", ",".join(addresses), "80", str(rate)) as running:
            assert running.stdout is not None
            try:
                assert running.stdout.readline() == "first\n"
                yield seen
                told, problems = running.communicate(timeout=60)
                assert running.returncode == 0, problems
                seen.told = Told(**json.loads(told))
            finally:
                running.kill()
        print(seen.told)

    def whole(self, seen: Seen) -> None:
        """None of a load's requests failed; else what directors know of those that did, and what befell pods."""
        if not seen.result.failed:
            return
        ports = re.findall(r"from port (\d+)", str(seen.result.failures))
        told = [str(seen.result)]
        for node in self.testbed.nodes[:DIRECTORS]:
            known = self.testbed.run(node, "ipvsadm", "-Lcn", check=False).stdout.splitlines()
            told += [f"{node}: {line}" for line in known if any(f":{port} " in line for port in ports)]
        told.append(self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False))
        raise AssertionError("\n".join([*told, self.pods()]))

    def addresses_of(self, host: str) -> set[str]:
        """All addresses that a host has, but the loopback's."""
        return set(self.testbed.run(host, "hostname", "--all-ip-addresses").stdout.split())

    def real_servers(self, node: str, address: str, proto: str = "tcp", port: int = 80) -> dict[str, int]:
        """What ipvsadm says on a node of one of its services: weights of the real servers by address and port."""
        shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        flag = {"tcp": "-t", "udp": "-u"}[proto]
        lines = self.testbed.run(node, "ipvsadm", "-Sn", check=False).stdout.splitlines()
        words = [line.split() for line in lines if line.startswith(f"-a {flag} {shown} ")]
        return {line[4]: int(line[line.index("-w") + 1]) for line in words}

    def served(self, vips: Iterable[str]) -> set[int]:
        """How many pods directors send new connections to, of each director and VIP: one number where all agree."""
        directors = self.testbed.nodes[:DIRECTORS]
        return {sum(self.real_servers(node, vip).values()) for vip in vips for node in directors}


def as_list(objects: Iterable[Object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


def virtual_service(name: str, addresses: list[str], **spec: Any) -> Object:
    """Port 80 of TCP, to the Service `web`."""
    return {
        "apiVersion": "ipvs.dev/v1alpha1",
        "kind": "VirtualService",
        "metadata": {"name": name},
        "spec": {
            "directorGroup": GROUP,
            "addresses": addresses,
            "ports": [{"name": "tcp", "port": 80}],
            "scheduler": "wrr",
            "drain": {"timeoutSeconds": 10},
            "backends": {"service": {"name": "web"}},
        }
        | spec,
    }


def service(name: str, app: str, **spec: Any) -> Object:
    """Port 80 of TCP and UDP to 8080 of the pods, in both families."""
    ports = [{"name": proto.lower(), "protocol": proto, "port": 80, "targetPort": 8080} for proto in ("TCP", "UDP")]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"ipFamilyPolicy": "RequireDualStack", "selector": {"app": app}, "ports": ports} | spec,
    }


def daemon_set(app: str, image: str) -> Object:
    """Such a pod on every node."""
    labels = {"app": app}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container(image)]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": app}, "spec": spec}


def container(image: str) -> Object:
    """It goes on for a while when it is told to end: until nobody is sent to it any more, and who was has its answer,
    which a busy machine takes seconds for."""
    return {
        "name": "web",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "resources": {"requests": {"cpu": "150m"}},  # without, everything else on a busy node comes first
        "readinessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 30},
    }


def deployment(app: str, image: str, replicas: int) -> Object:
    """Pods all over the nodes."""
    labels = {"app": app}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
        "matchLabelKeys": ["pod-template-hash"],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": app},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"topologySpreadConstraints": [spread], "containers": [container(image)]},
            },
        },
    }


def director_group(ranges: Iterable[str], static_backends: Iterable[str] = ()) -> Object:
    return {
        "apiVersion": "ipvs.dev/v1alpha1",
        "kind": "DirectorGroup",
        "metadata": {"name": GROUP},
        "spec": {
            "nodeSelector": {"matchLabels": {"ipvs.dev/director": "true"}},
            "addresses": list(ranges),
            "allowedStaticBackends": list(static_backends),
            "announcement": {"static": {}},
        },
    }
