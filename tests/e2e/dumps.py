"""What every node's kernel has, told by other people's tools."""

import re
from collections.abc import Mapping

from tests.e2e.testbed import Testbed

from ipvs_lab.net.dumps import COMMANDS, VOLATILE_SYSCTLS, Dump, steady

Dumps = Mapping[str, Dump]
OTHERS = {"kube-proxy", "kindnet-network-policies", "kindnet-ipmasq", "kindnet-dnscache"}
"""nftables tables that others keep changing."""
KUBELETS = {"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"}
"""Chains that a kubelet makes; where the first attempt fails, as on a busy machine, a minute later."""
BORN_WITH = re.compile(r"(?<=link/ether )\S+|(?<=permaddr )\S+")
"""What a kernel draws by lot for its devices when it starts; a node may have been off meanwhile."""
SYSCTLS = ("grep", "--recursive", "--no-messages", "", "/proc/sys/net")


def take_dumps(testbed: Testbed) -> Dumps:
    """Of every node."""
    return {node: take_dump(testbed, node) for node in testbed.nodes}


def take_dump(testbed: Testbed, node: str) -> Dump:
    """Ask every tool that the node has. One that fails or is not there says so in its section."""
    sections = {}
    commands = {name: command for name, command in COMMANDS.items() if name != "nft"} | tables(testbed, node)
    for name, command in commands.items():
        done = testbed.run(node, *command, check=False)
        told = BORN_WITH.sub("MAC", done.stdout) + (done.stderr if done.returncode else "")
        if name.startswith("nft ") and only_kubelets(told):
            continue
        sections[name] = steady(name, told)
    lines = testbed.run(node, *SYSCTLS, check=False).stdout.splitlines()
    settings = [re.sub(r"\s+", " ", line.removeprefix("/proc/sys/").replace(":", " = ", 1)) for line in lines]
    sections["sysctls"] = tuple(sorted(line for line in settings if not VOLATILE_SYSCTLS.search(line.split(" =")[0])))
    return Dump(node, sections)


def tables(testbed: Testbed, node: str) -> dict[str, tuple[str, ...]]:
    """How to list nftables, a table at a time: the order in which they were made says nothing."""
    found = [line.split() for line in testbed.run(node, "nft", "list", "tables", check=False).stdout.splitlines()]
    wanted = [words for words in found if words[-1] not in OTHERS]
    return {" ".join(("nft", *words)): ("nft", "-s", "list", *words) for words in wanted}


def only_kubelets(table: str) -> bool:
    """It has chains of the kubelet, and nothing else."""
    chains = set(re.findall(r"^\tchain (\S+)", table, re.MULTILINE))
    return bool(chains) and chains <= KUBELETS


def differences(before: Dumps, after: Dumps) -> str:
    """Of all nodes; "" where there is none."""
    return "\n".join(filter(None, (before[node].difference(after[node]) for node in before)))
