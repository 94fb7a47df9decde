"""Tells when a node's IPVS has something, as soon as it has it. Runs on the node; an order a line of its input:

    whole VIP COUNT SERVERS   COUNT services of virtual addresses that begin with VIP have SERVERS real servers together
    has VIP PORT RIP          a service of TCP sends new connections to a real server
    lacks VIP PORT RIP        it has it no more, or with weight 0

The answer to each is a line with `done`; it ends where that takes ten minutes.
"""

import signal
import sys
import time
from pathlib import Path

from ipvs_agent.kernel.ipvs import IpvsTable
from ipvs_agent.services import destinations_of, pack_key, unpack_destination

LONGEST = 600  # seconds
WHOLE, ONE = 0.1, 0.005
"""Seconds between looks: at a file of all services, and at the real servers of one."""


def whole(prefix: str, services: int, servers: int) -> bool:
    """From /proc, where addresses are hexadecimal."""
    wanted = "".join(f"{int(part):02X}" for part in prefix.rstrip(".").split("."))
    found, real, ours = 0, 0, False
    for line in Path("/proc/net/ip_vs").read_text().splitlines():
        if line.startswith("TCP"):
            ours = line.split()[1].startswith(wanted)
            found += ours
        elif line.startswith("  ->"):
            real += ours
    return (found, real) == (services, servers)


def has(table: IpvsTable, vip: str, port: int, server: str) -> bool:
    key = pack_key("TCP", vip, port)
    known = map(unpack_destination, destinations_of(table.read([key]).get(key, b"")))
    return any(one.address == server and one.weight for one in known)


def main() -> None:
    table = None
    for line in sys.stdin:
        signal.alarm(LONGEST)
        what, vip, first, second = line.split()
        if what == "whole":
            while not whole(vip, int(first), int(second)):
                time.sleep(WHOLE)
        else:
            table = table or IpvsTable()
            while has(table, vip, int(first), second) is not (what == "has"):
                time.sleep(ONE)
        signal.alarm(0)
        print("done", flush=True)


if __name__ == "__main__":
    main()
