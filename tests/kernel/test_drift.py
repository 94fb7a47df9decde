"""What somebody changes by hand is mended: at once where the kernel tells, else by the audit; each told once."""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from tests.kernel.conftest import MakeSite, Site, virtual_service
from tests.kernel.crowds import SERVERS, Held, change, drift_lines, serve_all, shape

from ipvs_agent.loop import AUDIT_PERIOD
from ipvs_lab.net import await_condition, clients
from ipvs_lab.topologies import one

NAT, DR, TUN, UDP = "192.0.2.10", "192.0.2.11", "192.0.2.12", "192.0.2.13"
TOLD, AUDITED = 2.0, AUDIT_PERIOD + 6
"""Seconds within which drift is mended: where the kernel notifies, and where it does not."""


class Drift(NamedTuple):
    """``command`` changes something on ``host``; ``lines``: what the agent says of it, a pattern for each line."""

    host: str
    command: str
    within: float
    lines: tuple[str, ...]


RIP = "192.0.2.101"
CHANGED = r"drift: service tcp {}:80 was changed \({}\); mended"
DRIFTS = {
    "destination deleted": Drift(
        "director",
        f"ipvsadm -d -t {NAT}:80 -r {RIP}",
        AUDITED,
        (CHANGED.format(re.escape(NAT), rf"real server {re.escape(RIP)}:80 gone"),),
    ),
    "weight changed": Drift(
        "director",
        f"ipvsadm -e -t {DR}:80 -r {RIP} -g -w 0",
        AUDITED,
        (CHANGED.format(re.escape(DR), rf"real server {re.escape(RIP)}:80 changed"),),
    ),
    "forwarding method changed": Drift(
        "director",
        f"ipvsadm -e -t {DR}:80 -r {RIP} -m",
        AUDITED,
        (CHANGED.format(re.escape(DR), rf"real server {re.escape(RIP)}:80 changed"),),
    ),
    "scheduler changed": Drift(
        "director",
        f"ipvsadm -E -t {TUN}:80 -s lc",
        AUDITED,
        (CHANGED.format(re.escape(TUN), "scheduler, flags or persistence"),),
    ),
    "destination added": Drift(
        "director",
        f"ipvsadm -a -t {NAT}:80 -r 192.0.2.77 -m",
        AUDITED + 12,  # it drains: whoever connected to it goes on
        (CHANGED.format(re.escape(NAT), r"real server 192\.0\.2\.77:80 \w+"),),
    ),
    "destination added to a UDP service": Drift(
        "director",
        f"ipvsadm -a -u {UDP}:53 -r 192.0.2.77 -m",
        AUDITED,
        (rf"drift: service udp {re.escape(UDP)}:53 was changed \(real server 192\.0\.2\.77:53 \w+\); mended",),
    ),
    "service deleted": Drift(
        "director", f"ipvsadm -D -t {DR}:80", AUDITED, (r"drift: 1 services? w\w+ gone; repairing",)
    ),
    "VIP removed": Drift(
        "director", f"ip addr del {NAT}/32 dev eth0", TOLD, (rf"drift: address {re.escape(NAT)} on eth0 was gone.*",)
    ),
    "forwarding switched off": Drift(
        "director",
        "sysctl -qw net.ipv4.conf.eth0.forwarding=0",
        TOLD,
        (r"drift: sysctl net\.ipv4\.conf\.eth0\.forwarding was changed; mended",),
    ),
    "IPVS's connection tracking switched off": Drift(
        "director",
        "sysctl -qw net.ipv4.vs.conntrack=0",
        AUDITED,
        (r"drift: sysctl net\.ipv4\.vs\.conntrack was changed; mended",),
    ),
    "nft table deleted": Drift(
        "director", "nft delete table inet ipvs-operator", TOLD, (r"drift: our nftables tables: .*mended",)
    ),
    "nft rules deleted": Drift(
        "director", "nft flush chain inet ipvs-operator masq", TOLD, (r"drift: our nftables tables: .*mended",)
    ),
    "nft rule added": Drift(
        "director",
        "nft insert rule inet ipvs-operator guard counter",
        TOLD,
        (r"drift: our nftables tables: .*mended",),
    ),
    "nft element deleted": Drift(
        "director",
        f"nft delete element inet ipvs-operator open4 {{ {NAT} . tcp . 80 }}",
        TOLD,
        (rf"drift: nftables set open4 element {re.escape(NAT)} \. tcp \. 80 was gone; mended",),
    ),
    "nft element added": Drift(
        "director",
        f"nft add element inet ipvs-operator open4 {{ {NAT} . tcp . 22 }}",
        TOLD,
        (rf"drift: nftables set open4 element {re.escape(NAT)} \. tcp \. 22 appeared; mended",),
    ),
    "real server's VIP removed": Drift(
        "rs1", f"ip addr del {DR}/32 dev ipvs0", TOLD, (rf"drift: address {re.escape(DR)} on ipvs0 was gone; mended",)
    ),
    "real server's link deleted": Drift(
        "rs1",
        "ip link del ipvs0",
        TOLD,
        (
            # its addresses went with it, and are not told one by one
            r"drift: link ipvs0 was gone; mended",
        ),
    ),
    "real server's link down": Drift(
        "rs1", "ip link set ipvs0 down", TOLD, (r"drift: link ipvs0 was changed; mended",)
    ),
    "real server's tunnel deleted": Drift(
        "rs1",
        "ip link del $(ip -br link | grep -o '^ivt-[0-9a-f]*')",
        TOLD,
        (r"drift: link ivt-\w+ was gone; mended", r"drift: sysctl net\.ipv4\.conf\.ivt-\w+\.rp_filter.*"),
    ),
    "real server's silence deleted": Drift(
        "rs1", "nft delete table arp ipvs-operator", TOLD, (r"drift: our nftables tables: .*mended",)
    ),
}


@pytest.fixture(scope="module")
def lvs() -> Iterator[Site]:
    """A director with a service of each method, two of its real servers, and connections held through all of it."""
    with ExitStack() as stack:
        made = MakeSite(stack)(one(), nodes=SERVERS)
        serve_all(made)
        servers = made.servers(*SERVERS)
        for name, vip, method in (("nat", NAT, "NAT"), ("dr", DR, "DR"), ("tun", TUN, "TUN")):
            made.put(virtual_service(name, vip, 80, servers, forwarding=method))
        made.put(virtual_service("dns", UDP, "53/UDP", servers))
        made.start()
        time.sleep(AUDIT_PERIOD + 1)
        yield made


@pytest.mark.parametrize("name", DRIFTS)
def test_drift_is_mended_in_its_time_and_told_once(lvs: Site, name: str) -> None:
    drift = DRIFTS[name]
    host, agent = lvs[drift.host], lvs.agents[drift.host]
    told, before = len(drift_lines(agent)), shape(host)
    host.run("sh", "-c", drift.command)
    started = time.monotonic()
    every = drift.within / 5.2  # a look costs ten programs
    await_condition(lambda: not change(before, shape(host)), drift.within + 5, f"{name} is mended", every)
    assert time.monotonic() - started <= drift.within
    time.sleep(2 * AUDIT_PERIOD + 1)
    assert not change(before, shape(host))
    lines = [line.partition(" ")[2] for line in drift_lines(agent)[told:]]
    assert len(lines) == len(drift.lines), lines
    for pattern in drift.lines:
        assert any(re.fullmatch(pattern, line) for line in lines), f"{pattern} in {lines}"
    for vip in (NAT, DR, TUN):
        told_by = clients(lvs["client"], 6, vip, 80)
        assert told_by.answers == dict.fromkeys(SERVERS, 2), f"{vip}: {told_by}"
    lvs.settled()


def test_several_drifts_at_once_are_each_told_once_and_connections_go_on(lvs: Site) -> None:
    director = lvs["director"]
    held = [Held(lvs, vip) for vip in (DR, TUN)]
    for crowd in held:
        crowd.open(idle=80, streaming=20)
    told, before = len(drift_lines(lvs.agents["director"])), shape(director)
    commands = [DRIFTS[name].command for name in ("scheduler changed", "nft table deleted", "VIP removed")]
    director.run("sh", "-c", "\n".join([*commands, "sysctl -qw net.ipv4.vs.expire_nodest_conn=0"]))
    time.sleep(AUDITED)
    assert not change(before, shape(director))
    lines = drift_lines(lvs.agents["director"])[told:]
    assert len(lines) == 4, lines
    for crowd in held:
        crowd.check("four drifts at once")
        crowd.close()
