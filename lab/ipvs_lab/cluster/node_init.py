"""What runs on a host of a cluster, inside its lab kernel: network, containerd, kubelet, and a door for `exec`.

Runs as a plain file with `python -I -S node_init.py HOST.json` (nothing but the standard library, imported quickly).
The file holds what keeper.py wrote: see `host_file` there.
"""

import contextlib
import ctypes
import json
import os
import pty
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from typing import Any

HEAD = struct.Struct("!BI")  # kind and length of a frame; the same in remote.py
INPUT, OUTPUT, ERRORS, STATUS = range(4)
MS_NOSUID, MS_REMOUNT, MS_BIND = 0x2, 0x20, 0x1000  # mount(2)
SUBTREE = Path("/sys/fs/cgroup/cgroup.subtree_control")
OWN_GROUP, OWN_WEIGHT = Path("/sys/fs/cgroup/node"), 10
"""The cgroup of the host's programs: a kubelet and a containerd that start pods leave the only processor to pods that
work already, whose group has 39 (one processor) or more."""


def prepare(name: str) -> None:
    """What a kubelet and a container runtime ask of a machine, besides a network."""
    socket.sethostname(name)
    # Started by an ordinary user, all files seem to be nobody's, and a program with the setuid bit (mount) would become
    # nobody: it must stay root.
    if ctypes.CDLL(None, use_errno=True).mount(b"none", b"/", b"", MS_REMOUNT | MS_BIND | MS_NOSUID, b""):
        raise OSError(ctypes.get_errno(), "cannot remount /")
    mounts = (
        ["--make-rshared", "/"],
        ["-t", "cgroup2", "none", "/sys/fs/cgroup"],
        ["-t", "tmpfs", "none", "/var/lib/kubelet"],
        ["-t", "tmpfs", "none", "/var/log"],
        ["-t", "tmpfs", "none", "/run/node"],
    )
    for directory in ("/var/lib/kubelet", "/run/node"):
        Path(directory).mkdir(parents=True, exist_ok=True)
    for arguments in mounts:
        subprocess.run(["mount", *arguments], check=True)
    for controller in ("cpu", "memory", "pids"):
        SUBTREE.write_text(f"+{controller}")
    OWN_GROUP.mkdir()
    (OWN_GROUP / "cpu.weight").write_text(str(OWN_WEIGHT))
    # cAdvisor, in the kubelet, refuses a processor without a clock, and this kernel's has none.
    told = Path("/proc/cpuinfo").read_text()
    Path("/run/cpuinfo").write_text(told.replace("bogomips", "cpu MHz\t\t: 2000.000\nbogomips"))
    subprocess.run(["mount", "--bind", "/run/cpuinfo", "/proc/cpuinfo"], check=True)


def give_modules(source: str) -> None:
    """Have a kernel's modules at /lib/modules, for modprobe, the kernel's own calls of it, and pods. The directory may
    not be there: it is made in memory, over this machine's files."""
    library = Path("/lib").resolve()
    layer = Path("/run/overlay/lib")
    for part in ("upper", "work"):
        (layer / part).mkdir(parents=True)
    # Whatever this machine has there is none of this kernel's: a whiteout (filesystems/overlayfs.rst in the kernel).
    os.mknod(layer / "upper" / "modules", stat.S_IFCHR, os.makedev(0, 0))
    options = f"lowerdir={library},upperdir={layer}/upper,workdir={layer}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "none", str(library)], check=True)
    modules = library / "modules"
    modules.mkdir()
    subprocess.run(["mount", "--bind", source, str(modules)], check=True)


def connect(lines: list[str]) -> None:
    """The host's place in the cluster's networks."""
    for card in Path("/sys/class/net").glob("vec*"):
        # The driver offers to send lists of buffers (NETIF_F_FRAGLIST, arch/um/drivers/vector_kern.c), and sends the
        # first and rubbish. It gets them where segments that came together (GRO) are forwarded. TSO would go off too.
        setting = ("tx-scatter-gather-fraglist", "off", "tso", "on")
        subprocess.run(["ethtool", "-K", card.name, *setting], stdout=subprocess.DEVNULL, check=True)
    for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", family).write_text("1")
    subprocess.run(["ip", "-batch", "-"], input="".join(line + "\n" for line in lines), text=True, check=True)


def join_own_group() -> None:
    (OWN_GROUP / "cgroup.procs").write_text("0")


class Programs:
    """Programs of the host by name, with logs beside its file: `start`, `stop`. `begin` runs in each before it does."""

    def __init__(self, commands: dict[str, list[str]], logs: Path, begin: Callable[[], object] | None = None) -> None:
        self.commands, self.logs, self.begin = commands, logs, begin
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        if (known := self.running.get(name)) is None or known.poll() is not None:
            with (self.logs / f"{name}.log").open("ab") as log:
                self.running[name] = subprocess.Popen(
                    self.commands[name],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=self.begin,
                )

    def stop(self, name: str, number: int) -> None:
        """Signal it, and return when it has ended. Its children go on: pods outlive their kubelet."""
        self.running[name].send_signal(number)
        self.running[name].wait()


def await_socket(path: str) -> None:
    """Until somebody listens on a socket file."""
    while True:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
            return
        time.sleep(0.05)


def await_api(url: str) -> None:
    """Until the API server is ready: a kubelet that asked before would wait longer and longer between attempts."""
    command = ["curl", "--silent", "--insecure", "--max-time", "5", f"{url}/readyz"]
    while subprocess.run(command, capture_output=True, text=True, check=False).stdout != "ok":
        time.sleep(0.1)


def become_node(host: dict[str, Any], programs: Programs) -> None:
    """containerd, its images, the kubelet."""
    for source, target in host["resident"].items():
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    programs.start("containerd")
    await_socket(host["containerd"])
    for image in host["images"]:
        with (programs.logs / "images.log").open("ab") as log:
            subprocess.run([*host["import"], image], stdout=log, stderr=log, check=False)
    await_api(host["api"])
    for name in host["commands"]:
        programs.start(name)


# The door: who knows the host's secret runs a command as root.


def serve(host: dict[str, Any], programs: Programs) -> None:
    """Answer for ever, each in a thread of its own."""
    with socket.create_server((host["address"], host["port"]), backlog=64) as listening:
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=answer, args=(connection, host["secret"], programs), daemon=True).start()


def answer(connection: socket.socket, secret: str, programs: Programs) -> None:
    """One request: its first line is JSON, frames follow both ways."""
    with connection, contextlib.suppress(OSError), connection.makefile("rb") as incoming:
        asked = json.loads(incoming.readline())
        if asked["secret"] != secret:
            return
        lock = threading.Lock()

        def send(kind: int, data: bytes) -> None:
            with lock:
                connection.sendall(HEAD.pack(kind, len(data)) + data)

        try:
            if "start" in asked:
                programs.start(asked["start"])
                status = 0
            elif "stop" in asked:
                programs.stop(asked["stop"], asked["signal"])
                status = 0
            else:
                status = execute(asked, incoming, send)
        except (OSError, KeyError) as error:
            send(ERRORS, f"ipvs-lab: {error}\n".encode())
            status = 127
        send(STATUS, bytes([status]))


def execute(asked: dict[str, Any], incoming: Any, send: Any) -> int:
    """Run a command to its end, or until who asked has gone; its exit status as a shell tells it."""
    terminal = asked.get("terminal")
    outputs: dict[int, int] = {}
    if terminal:
        ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *terminal, 0, 0))
        ends, to, outputs = (theirs, theirs, theirs), ours, {ours: OUTPUT}
    else:
        (theirs_in, to), (out, theirs_out), (err, theirs_err) = os.pipe(), os.pipe(), os.pipe()
        ends, outputs = (theirs_in, theirs_out, theirs_err), {out: OUTPUT, err: ERRORS}
    try:
        running = subprocess.Popen(
            asked["argv"],
            stdin=ends[0],
            stdout=ends[1],
            stderr=ends[2],
            cwd="/",
            env=os.environ | asked["environment"],
            start_new_session=True,
            preexec_fn=(lambda: ioctl(0, termios.TIOCSCTTY, 0)) if terminal else None,
        )
    except OSError:
        for end in outputs:
            os.close(end)
        raise
    finally:
        for end in set(ends):
            os.close(end)

    def feed() -> None:
        # Connection reset, or `answer` is done: there is nothing more to read.
        with contextlib.suppress(OSError, ValueError), os.fdopen(to, "wb", buffering=0) as sink:
            while len(head := incoming.read(HEAD.size)) == HEAD.size:
                data = incoming.read(HEAD.unpack(head)[1])
                with contextlib.suppress(BrokenPipeError):
                    if data:
                        sink.write(data)
                    elif not terminal:
                        sink.close()
        with contextlib.suppress(ProcessLookupError):
            if running.poll() is None:  # who asked has gone
                os.killpg(running.pid, signal.SIGHUP)

    threading.Thread(target=feed, daemon=True).start()
    copy(running, outputs, send)
    status = running.wait()
    return status if status >= 0 else 128 - status


def copy(running: "subprocess.Popen[bytes]", outputs: dict[int, int], send: Any) -> None:
    """Send what comes until all ends are closed, or the command has ended and its children say nothing more."""
    while outputs:
        readable, _, _ = select.select(list(outputs), [], [], 0.2)
        if not readable and running.poll() is not None:
            break
        for end in readable:
            try:
                data = os.read(end, 65536)
            except OSError:
                data = b""  # a terminal that nobody has any more
            if data:
                send(outputs[end], data)
            else:
                os.close(end)
                del outputs[end]
    for end in outputs:
        os.close(end)


def main() -> None:
    path = Path(sys.argv[1])
    host = json.loads(path.read_text())
    prepare(host["name"])
    if host["modules"]:
        give_modules(host["modules"])
    for name, content in host["files"].items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)
    connect(host["network"])
    programs = Programs(host["commands"], path.parent, join_own_group)
    if host["commands"]:
        threading.Thread(target=become_node, args=(host, programs), daemon=True).start()
    serve(host, programs)


if __name__ == "__main__":
    main()
