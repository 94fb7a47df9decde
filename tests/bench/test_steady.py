"""At 10,000 services with ten real servers: an audit, a pass with nothing to do, one change, memory, idle CPU."""

import gc
import json
import statistics
import time
from pathlib import Path
from time import perf_counter

import pytest
from tests.bench.world import agent, converge, manifest, resident, system_call, topology, write_manifests

from ipvs_agent.sources.manifests import ManifestsSource
from ipvs_lab.net import Network


def steady_state(directory: Path, state: Path, count: int) -> dict[str, float]:
    made = agent(directory, state)
    assert isinstance(made.source, ManifestsSource)
    made.read_source()
    converge(made)
    made.make_report()
    gc.collect()
    figures = {"resident after programming, MiB": resident(), "system call, us": system_call()}
    start = perf_counter()
    made.audit_due = True
    converge(made)
    figures["audit, s"] = perf_counter() - start
    start = perf_counter()
    made.step(set())
    made.make_report()
    figures["pass with nothing to do and report, ms"] = (perf_counter() - start) * 1000
    spans = []
    for weight in range(2, 23):
        name = "web-17.yaml"
        (directory / name).write_text(manifest(17, count, weight))
        start = perf_counter()
        made.source.changed(frozenset({name}))
        made.read_source()
        made.step(set())
        spans.append((perf_counter() - start) * 1000)
    figures["one real server changed, file to read-back, median ms"] = statistics.median(spans)
    gc.collect()
    figures["resident at the end, MiB"] = resident()
    assert not made.converger.troubles
    return figures


@pytest.mark.lab_timeout(900)
@pytest.mark.parametrize("count", [1000, 10_000])
def test_steady_state(count: int, tmp_path: Path) -> None:
    write_manifests(tmp_path / "manifests", count, count)
    with Network(topology()) as net:
        figures = net["lb1"].call_forked(steady_state, tmp_path / "manifests", tmp_path / "state", count)
    print(f"\n{count} services x 10:\n{json.dumps(figures, indent=2)}")


@pytest.mark.lab_timeout(900)
def test_idle_cpu(tmp_path: Path) -> None:
    """CPU seconds of the whole agent, loop and threads, over two audit periods in which nothing happens."""
    write_manifests(tmp_path / "manifests", 10_000, 10_000)
    with Network(topology()) as net:
        host = net["lb1"]
        child = host.popen(
            "ipvs-agent", "run", "--manifests", str(tmp_path / "manifests"), "--node", "lb1", name="agent"
        )

        def used() -> float:
            fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / 100

        settled = used()
        while True:  # programming is over once a whole second passes almost without CPU
            time.sleep(1)
            now = used()
            if now > 5 and now - settled < 0.05:
                break
            settled = now
        start = used()
        time.sleep(60)
        print(f"\nidle CPU at 10,000 x 10: {(used() - start) / 60 * 100:.1f} % of one CPU, audits included")
        child.stop()
