"""Somebody's ``ipvsadm -C`` on a director of 5,000 services with ten real servers each: all of it comes back, and what
else there is to do does not wait for that. Real time: what is looked at is how long things take."""

import time
from collections.abc import Callable

import pytest
from tests.kernel.conftest import MakeSite, Site, virtual_service
from tests.kernel.crowds import SERVERS, Held, drift_lines, serve_all

from ipvs_agent.loop import AUDIT_PERIOD
from ipvs_lab.net import ask, await_condition
from ipvs_lab.topologies import one

BIG, PORTS, MACHINES = 78, 64, 10
"""VirtualServices, ports of each, real servers of each."""

WEB, APP, NEW = "192.0.2.90", "192.0.2.91", "192.0.2.92"
PROMPT = 2.5
"""Seconds within which a change is in the kernel, whatever else is under way (on a busy machine)."""

PROBE = 1.0
"""Seconds for asking the network whether an address is free (RFC 5227), before it is taken."""

DRAIN = 4


def listed(lvs: Site, vip: str) -> list[list[str]]:
    """Real servers of one service in the kernel, in words: address, method, weight, connections."""
    done = lvs["director"].run("ipvsadm", "-Ln", "-t", f"{vip}:80", check=False)
    return [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("  -> ") and "Remote" not in line]


def weights(lvs: Site, vip: str) -> dict[str, int]:
    return {words[0].partition(":")[0]: int(words[2]) for words in listed(lvs, vip)}


def table(lvs: Site) -> dict[str, set[str]]:
    """The kernel's whole table, from /proc: real servers with method and weight, by service and scheduler."""
    found: dict[str, set[str]] = {}
    for line in lvs["director"].run("cat", "/proc/net/ip_vs").stdout.splitlines():
        if line.startswith("TCP"):
            servers = found.setdefault(line.strip(), set())
        elif line.startswith("  -> ") and "Remote" not in line:
            servers.add(" ".join(line.split()[1:4]))
    return found


def of_big(services: dict[str, set[str]]) -> dict[str, set[str]]:
    return {key: servers for key, servers in services.items() if len(servers) == MACHINES}


def ready(lvs: Site) -> tuple[str, str]:
    """Reason and message of the director's condition Ready, as it reports it now."""
    view = lvs.view("director")
    assert view is not None
    (found,) = [condition for condition in view.node.status.conditions if condition.type == "Ready"]
    return found.reason, found.message


def within(seconds: float, look: Callable[[], object], what: str) -> float:
    """Await a condition; it must hold in time."""
    started = time.monotonic()
    await_condition(look, seconds, what, every=0.1)
    print(f"{what}: {time.monotonic() - started:.2f} s")
    return time.monotonic()


@pytest.mark.realtime
@pytest.mark.lab_timeout(500)
def test_repairing_a_flushed_table_leaves_room_for_drains_and_changes(site: MakeSite) -> None:
    lvs = site(one(), nodes=SERVERS)
    serve_all(lvs)
    machines = [f"10.9.0.{last}" for last in range(1, MACHINES + 1)]
    for number in range(BIG):
        ports = list(range(1000, 1000 + PORTS))
        lvs.put(virtual_service(f"big-{number}", f"192.0.2.{number + 10}", ports, machines, scheduler="wrr"))
    rips = lvs.servers(*SERVERS)
    lvs.put(virtual_service("web", WEB, 80, rips, drain={"timeoutSeconds": DRAIN}))
    lvs.put(virtual_service("app", APP, 80, rips, scheduler="wrr"))
    lvs.start(ready=False)
    lvs.settled(timeout=200)
    before = of_big(table(lvs))
    assert len(before) == BIG * PORTS
    agent = lvs.agents["director"]
    told = len(drift_lines(agent))

    lvs["director"].run("ipvsadm", "-C")
    within(AUDIT_PERIOD + 10, lambda: ready(lvs)[0] == "Repairing", "the flush is found")
    began = time.monotonic()
    counts = [int(ready(lvs)[1].split()[0])]
    assert counts[0] > BIG * PORTS // 2

    weighted = [{"address": rip, "weight": weight} for rip, weight in zip(rips, (5, 2, 1), strict=True)]
    lvs.edit("app", backends={"static": weighted})
    within(PROMPT, lambda: sorted(weights(lvs, APP).values()) == [1, 2, 5], "weights of one service")
    lvs.edit("web", scheduler="wrr")
    within(PROMPT, lambda: len(weights(lvs, WEB)) == 3, "a service that is asked for is back before its turn")
    held = Held(lvs, WEB, timeout=20)
    held.open(idle=30)
    lvs.edit("web", backends={"static": weighted[:2]})
    drained = within(PROMPT, lambda: weights(lvs, WEB).get(rips[2]) == 0, "a server begins to drain")
    lvs.put(virtual_service("new", NEW, 80, rips))
    twice = 2 * PROMPT + PROBE  # its services have to come before its address, which is asked for in between
    within(twice, lambda: len(weights(lvs, NEW)) == 3 and NEW in lvs.held("director"), "a new service")
    assert ask(lvs["client"], NEW, 80).server in SERVERS
    held.check("half of a drain during the repair")
    await_condition(lambda: rips[2] not in weights(lvs, WEB), 30, "drained", every=0.1)
    took = time.monotonic() - drained
    print(f"drained after {took:.2f} s, {time.monotonic() - began:.1f} s into the repair: {ready(lvs)}")
    assert DRAIN - 1 <= took <= DRAIN + 2 + PROMPT, "at its time, looked at every two seconds"
    assert held.crowd.check().by_server == {"rs1": 10, "rs2": 10}

    while (now := ready(lvs))[0] == "Repairing":
        counts.append(int(now[1].split()[0]))
        assert time.monotonic() - began < 300, f"the repair goes on and on: {counts}"
        time.sleep(2)
    print(f"repaired after {time.monotonic() - began:.1f} s: {counts}")
    assert counts == sorted(counts, reverse=True)
    lvs.settled()
    assert of_big(table(lvs)) == before
    (line,) = drift_lines(agent)[told:]
    assert line.endswith("services were gone; repairing"), line
    assert f"repair: done, {counts[0]} services are back" in agent.output() or counts[0] < BIG * PORTS
    assert "services still to write" in agent.output()
