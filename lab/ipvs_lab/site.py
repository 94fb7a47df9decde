"""A private network of this machine in which native programs and lab kernels meet, without root.

A site is a network namespace (and, for ordinary users, a user namespace) with one bridge. Native programs run in it
behind `prefix` and listen on `ADDRESS`, or run outside and are offered there (`offer`); a lab kernel gets a cable
into the bridge (`plug`), its end inside is `vec0`, which `Network.uplink` puts into a LAN of hosts. So agents in a lab
kernel talk to an API server that runs natively.
"""

import contextlib
import os
import signal
import struct
import subprocess
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ipvs_lab.machine import LabError
from ipvs_lab.scratch import Scratch

BRIDGE, NETWORK, ADDRESS = "br0", "10.200.0.0/24", "10.200.0.1"
BRIDGE_OPTIONS = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
HOLD = f"""set -e
ip link set lo up
ip link add name {BRIDGE} {BRIDGE_OPTIONS}
ip addr add {ADDRESS}/24 dev {BRIDGE}
ip link set {BRIDGE} up
ethtool -K {BRIDGE} tx off >/dev/null
echo ready
exec sleep infinity
"""

SKF_AD_PKTTYPE, PACKET_OUTGOING = -0x1000 + 4, 4  # include/uapi/linux/filter.h, if_packet.h
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
INCOMING = b"".join(
    struct.pack("HBBI", code, then, otherwise, value & 0xFFFFFFFF)
    for code, then, otherwise, value in (
        (LOAD, 0, 0, SKF_AD_PKTTYPE),
        (EQUAL, 0, 1, PACKET_OUTGOING),
        (RETURN, 0, 0, 0),
        (RETURN, 0, 0, 0xFFFF),
    )
)
"""What comes from the wire only, as a classic BPF program: a lab kernel's raw socket hears its own frames too, and a
bridge inside would learn its own hosts on the wrong port."""


@dataclass(frozen=True)
class Nic:
    """A lab kernel's network cards.

    devices  as its boot line has them
    ends     of their cables, at the bridges
    prefix   what its process must run behind
    """

    devices: tuple[str, ...]
    ends: tuple[str, ...]
    prefix: tuple[str, ...]


class Site:
    """Use as a context manager: leaving it ends everything that runs in it."""

    def __init__(self) -> None:
        """LabError where this machine does not let us make namespaces."""
        self._scratch = Scratch("ipvs-site")
        self.directory = self._scratch.path
        self._filter = self.directory / "incoming.bpf"
        self._filter.write_bytes(INCOMING)
        self._cables = 0
        self._relays: list[subprocess.Popen[bytes]] = []
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *user, "--net", "sh", "-c", HOLD],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline().strip() != "ready":
            problem = self._holder.stderr.read().strip()
            self.close()
            raise LabError(
                f"no private network on this machine: {problem}; ordinary users need user namespaces "
                "(sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0); or be root"
            )
        enter = ["--user", "--preserve-credentials"] if user else []
        self.prefix = ("nsenter", "--target", str(self._holder.pid), *enter, "--net")

    def run(self, *command: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a command in the site to its end; CalledProcessError where it fails."""
        return subprocess.run([*self.prefix, *command], input=stdin, text=True, capture_output=True, check=True)

    def batch(self, lines: list[str]) -> None:
        """Lines of `ip -batch`."""
        self.run("ip", "-batch", "-", stdin="".join(line + "\n" for line in lines))

    def plug(self, *bridges: str) -> Nic:
        """A cable into each of these bridges (without any: into ours) for one lab kernel, in which they are `vec0`,
        `vec1` and so on."""
        cables = [self._cable(number, bridge) for number, bridge in enumerate(bridges or (BRIDGE,))]
        devices, ends = zip(*cables, strict=True)
        return Nic(devices, ends, self.prefix)

    def _cable(self, number: int, bridge: str) -> tuple[str, str]:
        """A kernel's device of this number at one end of it; the bridge's end."""
        self._cables += 1
        near, far = f"p{self._cables}", f"u{self._cables}"
        self.batch(
            [
                f"link add {near} type veth peer name {far}",
                f"link set {near} master {bridge} up",
                f"link set {far} up",
            ]
        )
        for end in (near, far):
            self.run("ethtool", "-K", end, "tx", "off")  # the far side is no kernel that would fill checksums in
        mac = f"02:00:00:01:00:{self._cables:02x}"
        return f"vec{number}:transport=raw,ifname={far},mac={mac},bpffile={self._filter}", near

    def offer(self, port: int) -> None:
        """From now on, what listens on this machine's own 127.0.0.1:`port` answers in the site, on ADDRESS:`port`.

        Two relays meet at a socket file, which is the same in all networks. Where the server is away, a connection is
        taken and closed at once, not refused. LabError where the port is taken in the site.
        """
        meeting = self.directory / f"{port}.socket"
        self._relay((), f"UNIX-LISTEN:{meeting},fork", f"TCP4:127.0.0.1:{port}", f"{port}.near")
        listen = f"TCP4-LISTEN:{port},bind={ADDRESS},reuseaddr,backlog=128,fork"
        self._relay(self.prefix, listen, f"UNIX-CONNECT:{meeting}", f"{port}.far")

    def _relay(self, prefix: tuple[str, ...], source: str, target: str, name: str) -> None:
        """A socat that copies between whom it accepts and whom it calls; it listens on return."""
        log = self.directory / name
        log.unlink(missing_ok=True)
        relay = subprocess.Popen(
            [*prefix, "setpriv", "--pdeathsig", "KILL", "socat", "-d", "-d", "-lf", str(log), source, target],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._relays.append(relay)
        deadline = time.monotonic() + 10
        while "listening on" not in (told := log.read_text() if log.exists() else ""):
            if relay.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"socat {source} {target}: {told.strip() or 'does not listen'}")
            time.sleep(0.01)

    def close(self) -> None:
        """End the network; who runs in it must have been ended by who started it."""
        for relay in self._relays:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(relay.pid, signal.SIGKILL)
            relay.wait()
        if self._holder.poll() is None:
            os.killpg(self._holder.pid, signal.SIGKILL)
        self._holder.wait()
        for stream in (self._holder.stdout, self._holder.stderr):
            if stream is not None:
                stream.close()
        self._scratch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
