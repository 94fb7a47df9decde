"""What processes on a node have cost so far."""

from typing import NamedTuple

from ipvs_lab.cluster.cluster import Cluster


class Cost(NamedTuple):
    """CPU seconds, and resident memory in MiB."""

    cpu: float
    resident: float


def costs(cluster: Cluster, node: str, words: str) -> list[Cost]:
    """Of each process there whose command line has these words."""
    found = []
    for pid in cluster.exec(node, "pgrep", "--full", words, check=False).stdout.split():
        fields = cluster.exec(node, "cat", f"/proc/{pid}/stat").stdout.rpartition(")")[2].split()
        resident = cluster.exec(node, "grep", "VmRSS", f"/proc/{pid}/status").stdout.split()[1]
        found.append(Cost((int(fields[11]) + int(fields[12])) / 100, round(int(resident) / 1024, 1)))
    return found
