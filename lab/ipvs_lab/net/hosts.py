"""A network that is up: its hosts, and everything that can be done on them."""

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from ipvs_lab.net import evidence, process
from ipvs_lab.net.capture import Capture
from ipvs_lab.net.carrier import await_addresses, await_forwarding, links_up, settle
from ipvs_lab.net.dumps import Dump, take_dump
from ipvs_lab.net.inside import Namespaces
from ipvs_lab.net.process import Child, CommandFailed
from ipvs_lab.net.topology import SWITCH, HostPlan, Topology, cables, far_end, host_batch, impairment, switch_batch
from ipvs_lab.net.topology import switch_tc_batch as tc_batch

P = ParamSpec("P")
T = TypeVar("T")


class Host:
    """One host of a network."""

    def __init__(self, plan: HostPlan, namespaces: Namespaces, directory: Path) -> None:
        self.plan = plan
        self.name = plan.name
        self.namespaces = namespaces
        self.directory = directory  # logs and captures, removed with the network
        self.children: list[Child] = []
        self.endings = contextlib.ExitStack()  # what is to be closed with the network

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """The calling thread is on this host within the block: sockets made there are the host's, also afterwards."""
        return self.namespaces.inside()

    def address(self, lan: str = "", family: int = 4) -> str:
        """The host's first address of a family (4 or 6) on a LAN (default: its first LAN that has one)."""
        for port in self.plan.ports:
            for address in port.addresses:
                if lan in ("", port.lan) and (":" in address) == (family == 6):
                    return address.split("/")[0]
        raise LookupError(f"{self.name} has no IPv{family} address on {lan or 'any LAN'}")

    def interface(self, lan: str) -> str:
        """The name of the interface on a LAN."""
        for port in self.plan.ports:
            if port.lan == lan:
                return port.interface
        raise LookupError(f"{self.name} is not on LAN {lan}")

    def run(
        self, *command: str, stdin: str = "", timeout: float = 60, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on the host to its end. CommandFailed if its status is not 0 and `check` is set."""
        with self.inside():
            running = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        with running:
            try:
                out, err = running.communicate(stdin, timeout=timeout)
            except subprocess.TimeoutExpired:
                running.kill()
                out, err = running.communicate()
                raise CommandFailed(
                    f"{self.name}: {' '.join(command)}: not done in {timeout:g} s\n{out}{err}"
                ) from None
        if check and running.returncode:
            raise CommandFailed(f"{self.name}: {' '.join(command)}: status {running.returncode}\n{out}{err}")
        return subprocess.CompletedProcess(command, running.returncode, out, err)

    def popen(self, *command: str, name: str = "", environment: dict[str, str] | None = None) -> Child:
        """Start a command on the host and leave it running; output goes to its log. It ends with the network."""
        variables = os.environ | (environment or {})
        return self.fork(os.execvpe, command[0], command, variables, name=name or Path(command[0]).name)

    def fork(self, function: Callable[..., object], *args: Any, name: str = "", **kwargs: Any) -> Child:
        """Run a callable on the host in a forked process: warm, because everything imported here is there already.

        It ends with the network, or with this process. Its exit status is an int that it returns, else 0; 1 after an
        exception, whose traceback is in the log.
        """
        return self.start(lambda: function(*args, **kwargs), name or getattr(function, "__name__", "child"))

    def start(self, function: Callable[[], object], name: str, keep: Iterable[int] = ()) -> Child:
        """`fork` for those who hand over descriptors: `keep` stay open in the child."""
        number = len(self.children)
        log = self.directory / f"{self.name}.{name}.{number}.log"
        log.touch()
        with self.inside():
            child = process.fork(function, (), f"{self.name}: {name}", log, keep)
        self.children.append(child)
        return child

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function here, on the host, and return what it returns."""
        with self.inside():
            return function(*args, **kwargs)

    def call_forked(self, function: Callable[..., T], *args: Any, timeout: float = 60, **kwargs: Any) -> T:
        """`call` in a process of its own, for what leaves threads, descriptors or signal handlers behind.

        The result travels by pickle. AssertionError with the log when the function raises.
        """
        result = self.directory / f"{self.name}.result"
        child = self.fork(lambda: _store(result, function(*args, **kwargs)), name="call")
        if child.wait(timeout):
            raise AssertionError(f"{child.name} failed:\n{child.output()}")
        value: T = pickle.loads(result.read_bytes())
        return value

    def capture(self, interface: str = "", filter: str = "", snaplen: int = 65535) -> Capture:  # noqa: A002
        """Packets on an interface ("" for all of them, without a filter), from now on: a context manager. `filter`
        is a pcap-filter(7) expression."""
        return Capture(self, interface, filter, snaplen)

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Read a setting, named like "net.ipv4.ip_forward" (or with slashes, where a part has dots), or write it."""
        path = Path("/proc/sys") / (name if "/" in name else name.replace(".", "/"))
        with self.inside():
            if value is not None:
                path.write_text(f"{value}\n")
            return path.read_text().strip()

    def json(self, *command: str) -> Any:
        """What a command says in JSON."""
        return json.loads(self.run(*command).stdout or "[]")

    def ipvs(self) -> list[str]:
        """`ipvsadm -Sn`, sorted: one line a virtual service and one a real server."""
        return sorted(line.strip() for line in self.run("ipvsadm", "-Sn").stdout.splitlines())

    def hold(self, interface: str, *addresses: str, deprecated: bool = False) -> None:
        """Give an interface more addresses, `ADDRESS` or `ADDRESS/LENGTH`, and wait until the host answers for them.
        Nobody is asked for duplicates of IPv6; what is `deprecated` there is no source of what the host sends."""
        batch = ""
        for address in addresses:
            flags = (" nodad" + " preferred_lft 0" * deprecated) * (":" in address)
            batch += f"addr add {address} dev {interface}{flags}\n"
        self.run("ip", "-batch", "-", stdin=batch)
        await_addresses([self])

    def addresses(self) -> list[dict[str, Any]]:
        """`ip -j -d addr`."""
        result: list[dict[str, Any]] = self.json("ip", "-j", "-d", "addr")
        return result

    def links(self) -> list[dict[str, Any]]:
        """`ip -j -d link`."""
        result: list[dict[str, Any]] = self.json("ip", "-j", "-d", "link")
        return result

    def links_by_name(self) -> dict[str, dict[str, Any]]:
        """`links` by their names."""
        return {link["ifname"]: link for link in self.links()}

    def neighbours(self) -> list[dict[str, Any]]:
        """`ip -j neigh`."""
        result: list[dict[str, Any]] = self.json("ip", "-j", "neigh")
        return result

    def nft(self) -> str:
        """`nft -s list ruleset`: without counters."""
        return self.run("nft", "-s", "list", "ruleset").stdout

    def dump(self) -> Dump:
        """Everything about the host's network, by foreign tools, as a value to compare."""
        return take_dump(self)


def _store(path: Path, value: object) -> None:
    path.write_bytes(pickle.dumps(value))


class Network:
    """A topology that is up: namespaces, bridges, cables, addresses. Needs a lab (`ipvs-lab run`).

    Leaving the context ends every process on it and takes it away, whole.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.directory = Path(tempfile.mkdtemp(prefix="network-"))
        self.hosts: dict[str, Host] = {}
        self.switch = Host(HostPlan(SWITCH), Namespaces(SWITCH, private=False), self.directory)
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        evidence.watch(self)

    def _build(self) -> None:
        for plan in self.topology.hosts.values():
            self.hosts[plan.name] = Host(plan, Namespaces(plan.name), self.directory)
        with contextlib.suppress(FileNotFoundError):  # natively, the bridge module may not be loaded
            for family in ("ip", "ip6", "arp"):
                self.switch.sysctl(f"net.bridge.bridge-nf-call-{family}tables", 0)
        self.switch.run("ip", "-batch", "-", stdin=switch_batch(self.topology))
        if text := tc_batch(self.topology):
            self.switch.run("tc", "-batch", "-", stdin=text)
        for number, host in enumerate(self.hosts.values(), 1):
            for name, value in host.plan.sysctls.items():
                host.sysctl(name, value)
            links_up(host, [port.interface for port in host.plan.ports])
            host.run("ip", "-batch", "-", stdin=host_batch(number, host.plan))
        await_forwarding(self.switch, [far_end(h, p) for h, _, p, _ in cables(self.topology)])
        await_addresses(list(self.hosts.values()))

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts.values())

    def uplink(self, lan: str, device: str = "vec0") -> None:
        """Plug the lab kernel's own network card into a LAN: its hosts and those of the site are neighbours then."""
        subprocess.run(["ip", "link", "set", device, "netns", SWITCH], check=True)
        self.switch.run("ip", "link", "set", device, "master", lan, "up")
        await_forwarding(self.switch, [device])

    def impair(self, host: str, lan: str, *, delay: str = "", loss: str = "", rate: str = "") -> None:
        """From now on, frames to a host on a LAN are delayed or lost as told (tc-netem(8)); nothing given: mended."""
        device = self._far_end(host, lan)
        self.switch.run("tc", "qdisc", "del", "dev", device, "root", check=False)
        if netem := impairment(delay=delay, loss=loss, rate=rate):
            self.switch.run("tc", "qdisc", "add", "dev", device, "root", "netem", "limit", "10000", *netem.split())

    def unplug(self, host: str, lan: str) -> None:
        """Pull the cable out of the switch: the host sees its link go down."""
        self.switch.run("ip", "link", "set", self._far_end(host, lan), "down")
        settle(self[host], [self[host].interface(lan)])

    def plug(self, host: str, lan: str) -> None:
        """Put it back."""
        self.switch.run("ip", "link", "set", self._far_end(host, lan), "up")
        settle(self[host], [self[host].interface(lan)])
        await_forwarding(self.switch, [self._far_end(host, lan)])

    def _far_end(self, host: str, lan: str) -> str:
        for h, plan, p, port in cables(self.topology):
            if (plan.name, port.lan) == (host, lan):
                return far_end(h, p)
        raise LookupError(f"{host} is not on LAN {lan}")

    def close(self) -> None:
        """End and remove everything."""
        evidence.unwatch(self)
        everyone = [self.switch, *self.hosts.values()]
        for host in everyone:
            host.endings.close()
            for child in host.children:
                child.end()
        for host in everyone:
            host.namespaces.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> "Network":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            evidence.failed(self, error)
        self.close()
