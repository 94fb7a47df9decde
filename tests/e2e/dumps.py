"""What every node's kernel has, told by other people's tools."""

import re
from collections.abc import Mapping

from tests.e2e.testbed import Testbed

from ipvs_lab.net.dumps import COMMANDS, VOLATILE_SYSCTLS, Dump, steady

Dumps = Mapping[str, Dump]
SYSCTLS = ("grep", "--recursive", "--no-messages", "", "/proc/sys/net")


def take_dumps(testbed: Testbed) -> Dumps:
    """Of every node."""
    return {node: take_dump(testbed, node) for node in testbed.nodes}


def take_dump(testbed: Testbed, node: str) -> Dump:
    """Ask every tool that the node has. One that fails or is not there says so in its section."""
    sections = {}
    for name, command in COMMANDS.items():
        done = testbed.run(node, *command, check=False)
        sections[name] = steady(name, done.stdout + (done.stderr if done.returncode else ""))
    lines = testbed.run(node, *SYSCTLS, check=False).stdout.splitlines()
    settings = [re.sub(r"\s+", " ", line.removeprefix("/proc/sys/").replace(":", " = ", 1)) for line in lines]
    sections["sysctls"] = tuple(sorted(line for line in settings if not VOLATILE_SYSCTLS.search(line.split(" =")[0])))
    return Dump(node, sections)


def differences(before: Dumps, after: Dumps) -> str:
    """Of all nodes; "" where there is none."""
    return "\n".join(filter(None, (before[node].difference(after[node]) for node in before)))
