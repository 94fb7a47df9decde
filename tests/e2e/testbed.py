"""What the suite needs of a cluster besides its API, so that the same tests run on any: commands on hosts, and what may
happen to a node."""

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CLIENT = "client"
"""The host beside the nodes from which requests come. It is on the directors' network and knows no pod."""


@dataclass(frozen=True)
class Image:
    repository: str
    tag: str


@dataclass(frozen=True)
class Addresses:
    """Free addresses of one family on the network of nodes and client.

    ranges  as a DirectorGroup has it
    first   the first of them; those that follow it by less than 40 are free as well
    network all of the network, in which machines outside the cluster are
    """

    ranges: str
    first: str
    network: str


class Testbed(Protocol):
    """Nodes are known by their Nodes' names, the client as CLIENT."""

    images: Mapping[str, Image]
    """Of `operator` and `agent`; every node has them."""
    web: str
    """An image that answers HTTP and datagrams on port 8080 with its pod's name and the address that it saw."""
    values: Sequence[str]
    """What the chart must be told here: arguments of helm."""
    addresses: Mapping[int, Addresses]
    """By the family's number."""

    @property
    def nodes(self) -> Sequence[str]: ...

    @property
    def kubeconfig(self) -> Path: ...

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> "subprocess.CompletedProcess[str]":
        """As an administrator. An exception with what it said where it fails."""
        ...

    def run(
        self, host: str, *argv: str, stdin: str = "", check: bool = True, timeout: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """A command on a host as root, to its end. An exception with what it said where it fails."""
        ...

    def start(self, host: str, *argv: str) -> "subprocess.Popen[str]":
        """Start a command on a host, with pipes for input and output."""
        ...

    def client_script(self, path: Path) -> Sequence[str]:
        """The command that runs a file of Python, which needs nothing but the standard library, on the client."""
        ...

    def outside(self) -> AbstractContextManager[Mapping[int, str]]:
        """A machine that is no node, and answers HTTP on port 8080 as `outside`: its addresses by family."""
        ...

    def power_off(self, node: str) -> None: ...

    def power_on(self, node: str) -> None:
        """Ready on return."""
        ...

    def stop_kubelet(self, node: str) -> None:
        """It dies; its pods go on."""
        ...

    def start_kubelet(self, node: str) -> None: ...

    def stop_api(self) -> None:
        """Nobody answers kubectl, operator, agents and kubelets any more."""
        ...

    def start_api(self) -> None:
        """Ready on return."""
        ...
