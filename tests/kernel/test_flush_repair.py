"""Somebody's ``ipvsadm -C`` on a director of 5,000 services with ten real servers each: all of it comes back, and what
else there is to do does not wait for that. Real time: what is looked at is how long things take."""

import re
import time
from contextlib import suppress

import pytest

from ipvs_lab.net import await_condition, clients
from ipvs_lab.topologies import one
from tests.kernel.conftest import MakeSite, Site, virtual_service
from tests.kernel.crowds import SERVERS, Held, drift_lines, serve_all

SERVICES, PORTS, SERVERS_EACH = 78, 64, 10
WEB, APP = "192.0.2.90", "192.0.2.91"
PROMPT = 2.0
"""Seconds within which a change is in the kernel, whatever else is under way."""

DRAIN = 4


def big(number: int) -> str:
    return f"192.0.2.{number + 10}"


def listed(lvs: Site, vip: str, port: int = 80) -> str:
    """One service as ``ipvsadm`` shows it; empty where there is none."""
    done = lvs["director"].run("ipvsadm", "-Ln", "-t", f"{vip}:{port}", check=False)
    return done.stdout if not done.returncode else ""


def table(lvs: Site) -> list[str]:
    """The kernel's whole table in its shortest form: services, real servers, method and weight."""
    text = lvs["director"].run("cat", "/proc/net/ip_vs").stdout
    return sorted(re.findall(r"^(?:TCP +\S+ \w+|  -> +\S+ +\w+ +\d+)", text, re.M))


def conditions(lvs: Site) -> dict[str, tuple[str, str, str]]:
    """Status, reason and message of the director's conditions, as it reports them now."""
    view = lvs.view("director")
    assert view is not None
    return {one.type: (str(one.status), one.reason, one.message) for one in view.node.status.conditions}


@pytest.mark.realtime
@pytest.mark.lab_timeout(400)
def test_repairing_a_flushed_table_leaves_room_for_drains_and_changes(site: MakeSite) -> None:
    lvs = site(one(), nodes=SERVERS)
    serve_all(lvs)
    machines = [f"10.9.0.{last}" for last in range(1, SERVERS_EACH + 1)]
    for number in range(SERVICES):
        ports = list(range(1000, 1000 + PORTS))
        lvs.put(virtual_service(f"big-{number}", big(number), ports, machines, scheduler="wrr"))
    lvs.put(virtual_service("web", WEB, 80, lvs.servers(*SERVERS), scheduler="wrr", drain={"timeoutSeconds": DRAIN}))
    lvs.put(virtual_service("app", APP, 80, lvs.servers(*SERVERS), scheduler="wrr"))
    started = time.monotonic()
    lvs.start(ready=False)
    await_condition(lambda: len(table(lvs)) == SERVICES * PORTS * (1 + SERVERS_EACH) + 8, 200, "programmed", every=1)
    print(f"programmed after {time.monotonic() - started:.1f} s")
    lvs.settled(timeout=60)
    before = table(lvs)
    log = lvs.agents["director"]
    told = len(log.output().splitlines())

    flushed = time.monotonic()
    lvs["director"].run("ipvsadm", "-C")
    seen = await_condition(lambda: [c for c in (conditions(lvs)["Ready"],) if c[1] == "Repairing"], 60, "told", 0.05)
    began = time.monotonic()
    print(f"found after {began - flushed:.1f} s: {seen}")
    while time.monotonic() - began < 60 and len(table(lvs)) < len(before):
        print(f"{time.monotonic() - began:.1f} s: {len(table(lvs))} {conditions(lvs)['Ready']}")
        time.sleep(0.5)
    print(f"repaired after {time.monotonic() - began:.1f} s")
    print("\n".join(log.output().splitlines()[told:]))
    assert table(lvs) == before
