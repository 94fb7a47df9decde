"""From objects in memory to every row verified by read-back, beside ``ipvsadm -R`` of the same services.

Each in a network namespace of its own, in one kernel, one after the other. What is timed: the agent's IPVS services
from plans in memory (worked out, durable, written, read back), without and with the VIPs and nftables that ipvsadm
knows nothing of. ``ipvsadm -Sn`` must show the same for both.
"""

import json
from pathlib import Path
from time import perf_counter

import pytest
from tests.bench.world import agent, converge, ipvsadm_rules, system_call, timed, topology, write_manifests

from ipvs_lab.net import Host, Network, await_condition

RULES = Path("/run/tmp/rules")


def programmed_by_agent(directory: Path, state: Path, started: float) -> dict[str, float]:
    """Seconds by what was timed, in a process of the host. ``started``: when its parent began."""
    made = agent(directory, state)
    assert made.source is not None
    update = made.source.look(0.0)
    read = perf_counter() - started
    made._take_spec(update.node, made.clock())
    start = perf_counter()
    made.converger.touch(made.intent.apply(update.plans, made.clock()))
    planned = perf_counter() - start
    while made.converger.services.more:
        made.converger.services.step()
    services = perf_counter() - start
    converge(made)
    whole = perf_counter() - start
    assert not made.converger.troubles
    return {
        "plans to rows, durable": planned,
        "... to services read back": services,
        "... to everything read back": whole,
        "YAML to plans, process start included": read,
        "system call, us": system_call(),
    }


def services_of(host: Host, lines: int) -> list[str]:
    """A dump of ipvsadm may miss services while the kernel resizes its table after a bulk write."""
    await_condition(lambda: len(host.ipvs()) == lines, timeout=60, what=f"ipvsadm shows {lines} lines")
    return host.ipvs()


@pytest.mark.lab_timeout(900)
@pytest.mark.parametrize(("count", "vips"), [(500, 500), (500, 100), (5000, 5000), (5000, 100)])
def test_bulk(count: int, vips: int, tmp_path: Path) -> None:
    write_manifests(tmp_path / "manifests", count, vips)
    RULES.write_text(ipvsadm_rules(count, vips))
    with Network(topology()) as net:
        host = net["lb1"]
        seconds = host.call_forked(programmed_by_agent, tmp_path / "manifests", tmp_path / "state", perf_counter())
        ours = services_of(host, count * 11)
    with Network(topology()) as net:
        host = net["lb1"]
        theirs = timed(lambda: host.run("sh", "-c", f"ipvsadm -R < {RULES}", timeout=600))
        assert services_of(host, count * 11) == ours
    seconds["ipvsadm -R"] = theirs
    seconds["ratio, services"] = theirs / seconds["... to services read back"]
    seconds["ratio, everything"] = theirs / seconds["... to everything read back"]
    print(f"\n{count} services x 10 on {vips} VIPs:\n{json.dumps(seconds, indent=2)}")
