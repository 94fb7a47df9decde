"""`ipvs-lab shell`: a network that is up, with a prompt on every host.

lab> hosts                     who is there
lab> @rs1 ip addr              run a command on a host; `@*` on all of them
lab> enter rs1                 a shell on a host, until `exit`
lab> quit
"""

import cmd
import os
import runpy
import shutil
import subprocess
import sys
import termios
from pathlib import Path

from ipvs_lab.machine import Job, LabError, Machine, environment, inside
from ipvs_lab.net.hosts import Host, Network
from ipvs_lab.net.topology import Topology
from ipvs_lab.run import choose_kernel
from ipvs_lab.topologies import TOPOLOGIES

COMMANDS = "IPVS_LAB_COMMANDS"  # the directory with the file `commands`, when they do not come from a terminal


def load(name: str) -> Topology:
    """A topology by its name, or from a Python file that has one as `topology` (or a function of that name that
    makes one). LabError if it is neither."""
    if name in TOPOLOGIES:
        return TOPOLOGIES[name]()
    if not name.endswith(".py") or not Path(name).is_file():
        raise LabError(f"there is no topology {name}: {', '.join(TOPOLOGIES)}, or a Python file")
    found = runpy.run_path(name).get("topology")
    topology = found() if callable(found) else found
    if not isinstance(topology, Topology):
        raise LabError(f"{name} has no Topology called `topology`")
    return topology


def open_shell(name: str, *, native: bool = False) -> int:
    """Boot a kernel with the topology and give its prompt to this terminal. Without a terminal, commands are read
    from standard input, whole, and then carried out."""
    load(name)  # a wrong name is told before anything boots
    if inside():
        return serve_prompt(name)
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not native
    size = shutil.get_terminal_size()
    argv = [sys.executable, "-m", "ipvs_lab.shell", name]
    variables = environment("native" if native else "kernel")
    job = Job(argv, str(Path.cwd()), variables, terminal=(size.lines, size.columns) if terminal else None)
    files = {} if terminal else {"commands": sys.stdin.read()}
    kernel = choose_kernel(native=native)
    state = termios.tcgetattr(0) if terminal else None
    try:
        variable = "" if terminal else COMMANDS
        with Machine(kernel, job, stdout=1, stderr=2, files=files, directory_variable=variable) as machine:
            outcome = machine.wait()
    finally:
        # The kernel has made the terminal raw and its descriptors non-blocking, for itself.
        for descriptor in (0, 1, 2):
            os.set_blocking(descriptor, True)
        if state is not None:
            termios.tcsetattr(0, termios.TCSANOW, state)
    if outcome.status is None:
        raise LabError(f"the lab kernel {outcome.reason}\n{outcome.last_words}")
    return outcome.status


class Prompt(cmd.Cmd):
    """The commands of the prompt."""

    prompt = "lab> "

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.status = 0

    def host(self, name: str) -> Host | None:
        """A host by name, or a word of complaint."""
        if name not in self.network.hosts:
            print(f"there is no host {name!r}: {' '.join(self.network.hosts)}")
            self.status = 1
            return None
        return self.network[name]

    def default(self, line: str) -> None:
        """`@HOST COMMAND`."""
        if not line.startswith("@"):
            print(f"not understood: {line}; try help")
            self.status = 2
            return
        name, _, command = line[1:].partition(" ")
        for one in self.network.hosts if name == "*" else [name]:
            if (host := self.host(one)) is not None:
                if name == "*":
                    print(f"--- {one}", flush=True)
                with host.inside():
                    self.status = subprocess.run(["sh", "-c", command], check=False).returncode

    def do_hosts(self, argument: str) -> None:
        """hosts: who is there, with addresses."""
        for host in self.network:
            addresses = [f"{port.interface} {' '.join(port.addresses)}" for port in host.plan.ports]
            print(f"{host.name:10} {'; '.join(addresses)}")

    def do_enter(self, name: str) -> None:
        """enter HOST: a shell on the host."""
        if (host := self.host(name)) is not None:
            shell = ["bash", "--norc", "-i"] if shutil.which("bash") else ["sh", "-i"]
            with host.inside():
                subprocess.run(shell, env=os.environ | {"PS1": f"{name}# "}, check=False)

    def complete_enter(self, text: str, line: str, begin: int, end: int) -> list[str]:
        """Host names."""
        return [name for name in self.network.hosts if name.startswith(text)]

    def completenames(self, text: str, *ignored: object) -> list[str]:
        """Commands, and @HOST."""
        return super().completenames(text) + [f"@{n}" for n in self.network.hosts if f"@{n}".startswith(text)]

    def do_quit(self, argument: str) -> bool:
        """quit: take the network down and leave."""
        return True

    def do_EOF(self, argument: str) -> bool:  # noqa: N802  the name that cmd gives the end of input
        """The end of input: quit."""
        return True

    def emptyline(self) -> bool:
        """Nothing."""
        return False


def serve_prompt(name: str) -> int:
    """The network and its prompt, inside a lab. The status is that of the last command."""
    with Network(load(name)) as network:
        prompt = Prompt(network)
        if directory := os.environ.get(COMMANDS):
            for line in (Path(directory) / "commands").read_text().splitlines():
                if prompt.onecmd(line):
                    break
            return prompt.status
        prompt.do_hosts("")
        prompt.cmdloop("@HOST COMMAND, @* COMMAND, enter HOST, hosts, help, quit")
    return 0


if __name__ == "__main__":
    sys.exit(serve_prompt(sys.argv[1]))
