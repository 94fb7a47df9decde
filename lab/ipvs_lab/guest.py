"""Process 1 of a lab kernel: makes the machine's files look like a running system, runs one program, powers off.

Runs as a plain file with `python -I -S guest.py DIRECTORY` (nothing but the standard library, imported in 0.1 s).
DIRECTORY holds `job.json` (see `Job` in machine.py) and gets `status`, the program's exit status in decimal; a kernel
that is gone without `status` died. With `--native` the same happens in namespaces of the machine's own kernel.

What is whose, inside:

  /proc /sys /run /dev/pts /dev/shm   the lab kernel's own (memory)
  /etc /var                           the machine's, written to memory: nothing persists
  everything else                     the machine's, for real: what is written there stays. TMPDIR is /run/tmp
"""

# pathlib would take longer to import than everything else here:
# ruff: noqa: PTH101, PTH102, PTH103, PTH104, PTH110, PTH123, PTH211
import ctypes
import fcntl
import json
import os
import selectors
import signal
import socket
import struct
import sys
import termios
import tty
from types import FrameType

MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID = 0x00020000, 0x40000000, 0x20000000
POWER_OFF = 0x4321FEDC  # LINUX_REBOOT_CMD_POWER_OFF, reboot(2)
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40
OVERLAID = ("/etc", "/var")

libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2); OSError names the target."""
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def mount_system(keep: list[str], *, native: bool) -> None:
    """Lay out the file systems of the module docstring. `keep`: directories whose writes must reach the machine
    although they lie below an overlaid one."""
    if native:
        mount("none", "/", "", MS_REC | MS_PRIVATE)
    else:
        mount("proc", "/proc", "proc")
        if not os.path.exists("/dev/null"):
            mount("devtmpfs", "/dev", "devtmpfs")
        for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
            os.symlink(f"/proc/self/{target}", f"/dev/{name}")
        os.mkdir("/dev/pts")
        os.mkdir("/dev/shm")
        mount("devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=620")
        mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV)
    mount("sysfs", "/sys", "sysfs")
    kept = [(os.open(path, os.O_PATH | os.O_DIRECTORY), path) for path in keep if path.startswith(OVERLAID)]
    run_kept = [(os.open(path, os.O_PATH | os.O_DIRECTORY), path) for path in keep if path.startswith("/run/")]
    mount("run", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for name in ("tmp", "netns", "lock", "overlay"):
        os.mkdir(f"/run/{name}")
    os.chmod("/run/tmp", 0o1777)
    # A mount of its own, so that a host's mount namespace can let go of all named namespaces at once.
    mount("netns", "/run/netns", "tmpfs", 0, "mode=755")
    for path in OVERLAID:
        layer = f"/run/overlay{path}"
        os.makedirs(f"{layer}/upper")
        os.makedirs(f"{layer}/work")
        mount("overlay", path, "overlay", 0, f"lowerdir={path},upperdir={layer}/upper,workdir={layer}/work")
    for directory, path in kept + run_kept:
        os.makedirs(path, exist_ok=True)
        mount(f"/proc/self/fd/{directory}", path, "", MS_BIND | MS_REC)
        os.close(directory)


def loopback_up() -> None:
    """An `lo` that is down makes IPVS refuse every destination."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP | IFF_RUNNING))


def open_console(name: str) -> int:
    """A console of the kernel as a byte-clean output."""
    descriptor = os.open(f"/dev/{name}", os.O_RDWR | os.O_NOCTTY)
    tty.setraw(descriptor)
    return descriptor


class Pump:
    """Copies what the program writes into two pipes to two consoles, so that the program sees no terminal."""

    def __init__(self, stdout: int, stderr: int) -> None:
        self.selector = selectors.DefaultSelector()
        self.ends = []
        for target in (stdout, stderr):
            source, end = os.pipe()
            os.set_blocking(source, False)
            os.set_inheritable(end, True)
            self.ends.append(end)
            self.selector.register(source, selectors.EVENT_READ, target)
        # A signal handler that writes a byte wakes the selector when the program has ended.
        self.wake, wake_end = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(wake_end, False)
        signal.set_wakeup_fd(wake_end)
        self.selector.register(self.wake, selectors.EVENT_READ, -1)

    def close_ends(self) -> None:
        for end in self.ends:
            os.close(end)

    def copy(self, timeout: float | None) -> bool:
        """Wait for bytes or a signal, pass the bytes on; False when nothing came within `timeout` seconds."""
        moved = False
        for key, _ in self.selector.select(timeout):
            try:
                data = os.read(key.fd, 65536)
            except BlockingIOError:
                continue
            if key.data == -1:
                continue
            if not data:
                self.selector.unregister(key.fd)
                continue
            moved = True
            view = memoryview(data)
            while view:
                view = view[os.write(key.data, view) :]
        return moved


def exit_status(status: int) -> int:
    """A wait status as a shell tells it: 128 + N for signal N."""
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def reap(program: int) -> int | None:
    """Collect every child that has ended; the program's exit status if it was among them."""
    found = None
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if child == 0:
            return found
        if child == program:
            found = exit_status(status)


def run_piped(argv: list[str], stdout: int, stderr: int) -> int:
    """Run the program with pipes for output; what it wrote before it ended is passed on, whole."""
    pump = Pump(stdout, stderr)

    def on_child(number: int, frame: FrameType | None) -> None:
        """Nothing to do but wake the selector."""

    signal.signal(signal.SIGCHLD, on_child)
    null = os.open("/dev/null", os.O_RDONLY)
    program = spawn(argv, null, pump.ends[0], pump.ends[1])
    pump.close_ends()
    status = None
    while status is None:
        pump.copy(None)
        status = reap(program)
    while pump.copy(0):
        pass
    return status


def run_on_terminal(argv: list[str], rows: int, columns: int) -> int:
    """Run the program with the first console as its controlling terminal."""
    terminal = os.open("/dev/tty1", os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    program = spawn(argv, terminal, terminal, terminal, controlling=True)
    while True:
        child, status = os.wait()
        if child == program:
            return exit_status(status)


def spawn(argv: list[str], stdin: int, stdout: int, stderr: int, *, controlling: bool = False) -> int:
    """Start the program in a session of its own; 127 with a message when it cannot be executed."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        for source, target in ((stdin, 0), (stdout, 1), (stderr, 2)):
            os.dup2(source, target)
        if controlling:
            fcntl.ioctl(0, termios.TIOCSCTTY, 1)
        os.closerange(3, 256)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execvpe(argv[0], argv, os.environ)
    except OSError as error:
        os.write(2, f"ipvs-lab: cannot run {argv[0]}: {os.strerror(error.errno or 0)}\n".encode())
    os._exit(127)


def write_status(directory: str, status: int) -> None:
    """Rename makes it whole or absent; the sync brings it out of the kernel's cache."""
    with open(f"{directory}/status.new", "w") as file:
        file.write(str(status))
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{directory}/status.new", f"{directory}/status")


def guest_main(directory: str) -> None:
    """Process 1: never returns."""
    status = 126
    with open(f"{directory}/job.json") as file:
        job = json.load(file)
    try:
        mount_system(job["keep"], native=False)
        socket.sethostname("lab")
        loopback_up()
        os.environ.clear()
        os.environ.update(job["environment"])
        os.chdir(job["cwd"])
        if job["terminal"]:
            status = run_on_terminal(job["argv"], *job["terminal"])
        else:
            status = run_piped(job["argv"], open_console("tty1"), open_console("tty2"))
    except OSError as error:
        print(f"ipvs-lab: cannot set up the lab kernel: {error}", file=sys.stderr, flush=True)
    finally:
        write_status(directory, status)
        libc.reboot(POWER_OFF)


def native_main(directory: str) -> None:
    """The same on the machine's own kernel, in network, mount and process namespaces of our own."""
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID):
        sys.exit(f"ipvs-lab: cannot unshare namespaces: {os.strerror(ctypes.get_errno())}")
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        return
    with open(f"{directory}/job.json") as file:
        job = json.load(file)
    mount_system(job["keep"], native=True)
    mount("proc", "/proc", "proc")
    loopback_up()
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["environment"])
    program = spawn(job["argv"], 0, 1, 2)
    while (status := wait_any(program)) is None:
        pass
    write_status(directory, status)
    os._exit(0)


def wait_any(program: int) -> int | None:
    """Wait for one child to end; the exit status if it was the program."""
    child, status = os.wait()
    return exit_status(status) if child == program else None


if __name__ == "__main__":
    if sys.argv[1] == "--native":
        native_main(sys.argv[2])
    else:
        guest_main(sys.argv[1])
