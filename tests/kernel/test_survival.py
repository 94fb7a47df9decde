"""Established connections go on, whatever is changed beneath them: every byte checked, idle ones asked again."""

import signal
import sys
import time
from random import Random

import pytest
from tests.kernel.conftest import MakeSite, Site, virtual_service
from tests.kernel.crowds import FLAG, SERVERS, VIP, Held, execute_agent, fork_agent, has, kill, serve_all

from ipvs_lab.net import await_condition, clients
from ipvs_lab.net.dumps import Dump
from ipvs_lab.topologies import one

FALLBACK = {"mh": " -b mh-fallback", "sh": " -b sh-fallback"}
ROUND = ("DR", "TUN", "NAT", "TUN", "DR", "NAT")
"""Begun with NAT: every change of forwarding method, in each direction."""


@pytest.fixture
def lvs(site: MakeSite) -> Site:
    """A director and three real servers on one network, no agent yet."""
    made = site(one(), nodes=SERVERS)
    serve_all(made)
    return made


def web(lvs: Site, family: int = 4, *names: str, **spec: object) -> None:
    """VirtualService ``web`` on these real servers (default: all)."""
    lvs.put(virtual_service("web", VIP[family], 80, lvs.servers(*(names or SERVERS), family=family), **spec))


def even(lvs: Site, family: int = 4) -> None:
    """New clients are spread over all real servers."""
    told = clients(lvs["client"], 9, VIP[family], 80)
    assert told.answers == dict.fromkeys(SERVERS, 3), str(told)


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_every_change_of_forwarding_keeps_connections_old_and_new(lvs: Site, family: int) -> None:
    web(lvs, family, forwarding="NAT")
    lvs.start()
    held = Held(lvs, VIP[family])
    held.open(idle=120, streaming=50, downloads=30)
    before = "NAT"
    for method in ROUND:
        lvs.edit("web", forwarding=method)
        lvs.settled()
        assert {line.split()[5] for line in lvs["director"].ipvs() if line.startswith("-a")} == {FLAG[method]}
        held.check(f"IPv{family} {before} to {method}")
        even(lvs, family)
        held.open(idle=3, streaming=3)
        before = method
    report = held.check("all changes")
    assert set(report.by_server) == set(SERVERS)
    assert report.bytes > 500 * report.opened  # half of them stream, 1,000 bytes a chunk


@pytest.mark.parametrize("methods", [("NAT", "DR"), ("DR", "NAT"), ("NAT", "TUN"), ("TUN", "NAT")], ids="-".join)
def test_connections_idle_for_most_of_the_drain_time_survive_a_change_of_forwarding(
    lvs: Site, methods: tuple[str, str]
) -> None:
    before, after = methods
    web(lvs, forwarding=before, drain={"timeoutSeconds": 300})
    lvs.start()
    held = Held(lvs, VIP[4])
    held.open(idle=200)
    lvs.edit("web", forwarding=after)
    lvs.settled()
    time.sleep(290)
    held.check(f"290 s of silence since {before} became {after}")


def test_changes_of_scheduler_weights_and_servers_keep_connections(lvs: Site) -> None:
    web(lvs, 4, "rs1", "rs2", forwarding="DR")
    lvs.start()
    held = Held(lvs, VIP[4])
    held.open(idle=180, streaming=12, downloads=8)
    for scheduler in ("wlc", "mh", "sh", "wrr"):
        lvs.edit("web", scheduler=scheduler)
        has(lvs, f"-A -t {VIP[4]}:80 -s {scheduler}" + FALLBACK.get(scheduler, ""))
        held.check(f"scheduler {scheduler}")
    first, second, third = lvs.servers(*SERVERS)
    lvs.edit("web", backends={"static": [{"address": first, "weight": 7}, {"address": second, "weight": 0}]})
    has(lvs, f"-a -t {VIP[4]}:80 -r {first}:80 -g -w 7", f"-a -t {VIP[4]}:80 -r {second}:80 -g -w 0")
    held.check("weights 7 and 0")
    lvs.edit("web", backends={"static": [{"address": rip} for rip in (first, second, third)]})
    lvs.settled()
    held.check("a server added")
    even(lvs)
    held.open(idle=9)
    lvs.edit("web", backends={"static": [{"address": rip} for rip in (second, third)]})
    has(lvs, f"-a -t {VIP[4]}:80 -r {first}:80 -g -w 0")
    assert clients(lvs["client"], 10, VIP[4], 80).answers == {"rs2": 5, "rs3": 5}
    time.sleep(30)
    report = held.check("half a minute of draining a server")
    assert report.by_server["rs1"] > 100


@pytest.mark.parametrize("method", ["NAT", "DR", "TUN"])
def test_traffic_does_not_notice_an_agent_that_is_killed_stopped_or_frozen(lvs: Site, method: str) -> None:
    web(lvs, forwarding=method)
    lvs.start()
    held = Held(lvs, VIP[4])
    held.open(idle=192, streaming=4, downloads=4)
    kernels = {name: lvs[name].dump() for name in lvs.agents}
    everybody = ("director", *SERVERS)
    for name in everybody:
        lvs.agents[name].kill(signal.SIGSTOP)
    time.sleep(60)
    held.check("a minute with frozen agents")
    even(lvs)
    for name in everybody:
        lvs.agents[name].kill(signal.SIGCONT)
    for name in everybody:
        kill(lvs, name)
    held.check("kill -9 of every agent")
    time.sleep(60)
    held.check("a minute without agents")
    even(lvs)
    lvs.start()
    held.check("agents started again")
    lvs.stop()
    lvs.start()
    held.check("a restart")
    even(lvs)
    for name, before in kernels.items():
        assert before.difference(lvs[name].dump()) == ""


NEWER = """
import sys, ipvs_agent, ipvs_agent.nft.static
ipvs_agent.__version__, ipvs_agent.nft.static.VERSION = "99.0", "fedcba98"
from ipvs_agent.main import main
sys.exit(main())
"""
"""An agent of another version, whose nftables rules are other rules."""


@pytest.mark.parametrize("method", ["NAT", "DR"])
def test_an_upgrade_of_all_agents_keeps_connections(lvs: Site, method: str) -> None:
    web(lvs, forwarding=method)
    for name in ("director", *SERVERS):
        execute_agent(lvs, name)
    lvs.settled(timeout=120)
    held = Held(lvs, VIP[4])
    held.open(idle=160, streaming=30, downloads=10)
    for name in ("director", *SERVERS):
        lvs.stop(name)
        execute_agent(lvs, name, sys.executable, "-c", NEWER)
    lvs.settled(timeout=120)
    held.check("the upgrade")
    even(lvs)
    view = lvs.view("director")
    assert view is not None
    assert view.node.status.agent_version == "99.0"
    assert "chain stamp-fedcba98-" in lvs["director"].nft(), "its rules replaced the older ones"
    assert lvs["director"].nft().count("chain stamp-") == 1
    kill(lvs, "director")
    execute_agent(lvs, "director")
    lvs.settled(timeout=120)
    held.check("kill -9 and the way back")
    even(lvs)


def same_as(lvs: Site, wanted: Dump) -> None:
    """The director comes to look like this."""
    await_condition(lambda: wanted.difference(lvs["director"].dump()) == "", 20, "the kernel of an undisturbed agent")


@pytest.mark.realtime
def test_kills_at_random_moments_of_changes_keep_connections_and_lead_to_the_same_kernel(lvs: Site) -> None:
    chance = Random(3)
    web(lvs, forwarding="NAT", drain={"timeoutSeconds": 600})
    lvs.start()
    held = Held(lvs, VIP[4], timeout=30)
    held.open(idle=180, streaming=20)
    undisturbed = {}
    for method in ("DR", "NAT", "DR", "NAT"):
        lvs.edit("web", forwarding=method)
        lvs.settled(timeout=60)
        undisturbed[method] = lvs["director"].dump()
    for method in ("DR", "NAT") * 4:
        lvs.edit("web", forwarding=method)
        for _ in range(2):
            time.sleep(chance.random() * 0.4)
            kill(lvs, "director")
            fork_agent(lvs, "director")
        lvs.settled(timeout=60)
        same_as(lvs, undisturbed[method])
        held.check(f"two kills on the way to {method}")
    even(lvs)
