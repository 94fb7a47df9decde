"""What is kept of a network when a test fails: dumps, logs and a capture of every host.

Every host records its packets from the start, in a bounded buffer of the kernel's (the first 8 MiB at 256 bytes a
packet; nothing is copied and no process runs until somebody asks). `directory` says where evidence goes; None
keeps nothing.
"""

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ipvs_lab.net.capture import Capture

if TYPE_CHECKING:
    from ipvs_lab.net.hosts import Network

directory: Path | None = None
recordings: "dict[Network, list[Capture]]" = {}


def watch(network: "Network") -> None:
    """A network came up: record its hosts if evidence is wanted."""
    recordings[network] = []
    if directory is not None:
        recordings[network] = [host.capture(snaplen=256) for host in network]


def unwatch(network: "Network") -> None:
    """A network is going down."""
    for capture in recordings.pop(network, []):
        capture.close()


def failed(network: "Network", error: BaseException) -> None:
    """A network is left by an exception: keep what it can tell. A skipped test is no failure."""
    if type(error).__name__ != "Skipped":
        keep(network)


def keep_all() -> None:
    """Keep evidence of every network that is up."""
    for network in list(recordings):
        keep(network)


def keep(network: "Network") -> None:
    """Write dumps, logs and captures of a network to `directory`. Nothing here may hide the failure itself."""
    if directory is None:
        return
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        for capture in recordings.get(network, []):
            capture.write_pcap(directory / f"{capture.host.name}.pcap")
        for log in network.directory.glob("*.log"):
            shutil.copy(log, directory)
        for host in network:
            try:
                text = str(host.dump())
            except AssertionError as failure:
                text = f"no dump: {failure}\n"
            (directory / f"{host.name}.dump.txt").write_text(text)
