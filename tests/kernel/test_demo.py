"""`make demo` as a user runs it, the examples under traffic, and the systemd unit's privileges."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ipvs_lab.net import Network, ask, await_condition, serve
from ipvs_lab.topologies import one

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
UNIT = EXAMPLES / "systemd" / "ipvs-agent.service"


def demo(*arguments: str, path: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the demo in this lab kernel. `path`: a directory to be found first."""
    environment = os.environ | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
    return subprocess.run(
        [sys.executable, "-m", "ipvs_lab.demo", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.mark.realtime
@pytest.mark.lab_timeout(300)
def test_demo_tells_its_story_to_the_end() -> None:
    told = demo()
    assert told.returncode == 0, told.stdout + told.stderr
    text = " ".join(told.stdout.split())
    for method in ("NAT", "DR", "TUN"):
        assert f"100 requests by {method}:" in text
    assert "100 of 100 answers passed the director; the real servers saw clients as 192.0.2.2" in text
    assert text.count("0 of 100 answers passed the director; the real servers saw clients as 198.51.100.2") == 2
    assert text.count("30 of 30 streams go on") == 2
    assert re.search(r"rs1 █+ 50 rs2 █+ 25 rs3 █+ 25", text)
    assert "rs3 has weight 0: it drains" in text
    assert re.search(r"the downloads .* arrived whole .* 160,000 bytes, each checked", text)
    assert re.search(r"rs3 left IPVS \d+\.\d s after", text)
    assert "no agent runs any more: 100 of 100 requests are answered" in text
    assert "nothing is left" in text
    assert "\033" not in told.stdout
    assert told.stderr == ""


def test_demo_fails_in_words_when_an_agent_does_not_start(tmp_path: Path) -> None:
    agent = tmp_path / "ipvs-agent"
    agent.write_text(
        f'#!/bin/sh\n[ "$1" = run ] && echo "cannot go on" && exit 3\nexec {sys.prefix}/bin/ipvs-agent "$@"\n'
    )
    agent.chmod(0o755)
    told = demo(path=str(tmp_path))
    assert told.returncode == 1
    assert "✗ the demo ends here: the agent on director ended by itself:\n     cannot go on\n" in told.stdout
    assert "Traceback" not in told.stdout + told.stderr


@pytest.mark.parametrize("name", ["features", "demo"])
def test_demo_runs_a_directory_and_every_port_is_answered(name: str) -> None:
    told = demo("--manifests", str(EXAMPLES / name))
    assert told.returncode == 0, told.stdout + told.stderr
    assert "✓ every manifest was taken, and every request answered" in told.stdout
    assert "✗" not in told.stdout


def test_demo_tells_what_is_wrong_with_manifests_and_runs_the_others(tmp_path: Path) -> None:
    for file in (EXAMPLES / "demo").glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    bad = (
        (EXAMPLES / "demo" / "web.yaml")
        .read_text()
        .replace("name: web", "name: bad")
        .replace("port: 80", "port: eighty")
    )
    (tmp_path / "bad.yaml").write_text(bad)
    told = demo("--manifests", str(tmp_path))
    assert told.returncode == 1
    text = " ".join(told.stdout.split())
    assert re.search(r"✗ bad\.yaml:\d+:\d+: VirtualService default/bad: spec\.ports\[0\]\.port: ", text)
    assert "✓ accepted: default/web" in text
    assert re.search(r"default/web TCP 192\.0\.2\.10:80 rs1 █+ \d+", text)


def test_demo_says_what_to_do_when_a_directory_holds_nothing(tmp_path: Path) -> None:
    told = demo("--manifests", str(tmp_path))
    assert told.returncode == 1
    assert "holds no manifest" in told.stdout
    assert "no virtual service was accepted on any host" in told.stdout


@pytest.mark.parametrize("forwarding", ["NAT", "DR", "TUN"])
def test_agent_works_with_the_capabilities_of_the_systemd_unit(tmp_path: Path, forwarding: str) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read(UNIT)
    wanted = [name.removeprefix("CAP_").lower() for name in unit["Service"]["CapabilityBoundingSet"].split()]
    kept = "-all," + ",".join(f"+{name}" for name in wanted)
    confined = ("setpriv", "--no-new-privs", f"--bounding-set={kept}", f"--inh-caps={kept}", "ipvs-agent")
    for file in (EXAMPLES / "demo").glob("*.yaml"):
        text = file.read_text().replace("forwarding: NAT", f"forwarding: {forwarding}")
        (tmp_path / file.name).write_text(text)
    hosts = ("director", "rs1", "rs2", "rs3")
    with Network(one()) as net:
        before = {name: net[name].dump() for name in hosts}
        serve([net[name] for name in hosts[1:]], 80)
        agents = [
            net[name].popen(*confined, "run", "--manifests", str(tmp_path), "--node", name, name="agent")
            for name in hosts
        ]
        await_condition(
            lambda: "192.0.2.10" in net["director"].run("ip", "-4", "addr").stdout, 30, "the VIP on the director", 0.2
        )
        await_condition(lambda: all("Ready=True" in agent.output() for agent in agents), 30, "all agents ready", 0.2)
        assert {ask(net["client"], "192.0.2.10", 80).server for _ in range(8)} == {"rs1", "rs2", "rs3"}
        for agent in agents:
            assert agent.stop() == 0, agent.output()
            assert "ERROR" not in agent.output()
        for name in hosts:
            net[name].run(*confined, "release")
            assert before[name].difference(net[name].dump()) == ""
