"""The story of `make demo`, with the manifests of examples/demo. Every number in it is measured as it is told."""

import re
import time
from collections import Counter
from pathlib import Path

from ipvs_lab.demo.newcomers import INTERVAL, Newcomers, gap
from ipvs_lab.demo.page import BOLD, DIM, Page
from ipvs_lab.demo.stage import (
    AGENTS,
    EXAMPLES,
    SERVERS,
    Manifests,
    Stage,
    differences,
    drawing,
    expect,
    versions,
)
from ipvs_lab.net import Crowd, Histogram, Network, await_condition, clients, serve
from ipvs_lab.topologies import one

FILE = "web.yaml"
VIP, PORT = "192.0.2.10", 80
STREAMS, REQUESTS = 30, 100
DOWNLOADS, DOWNLOAD_SIZE = 4, 40_000  # bytes, at 10 kB a second
FLAG = {"NAT": "-m", "DR": "-g", "TUN": "-i"}  # ipvsadm's
WAY = {
    "NAT": "The director rewrites the destination; answers come back through it.",
    "DR": "The director rewrites only the MAC address; the real servers own the VIP, silently, and answer directly.",
    "TUN": "The director wraps packets in IPIP; real servers unwrap them and answer directly, from behind any router.",
}


class Story:
    """Its chapters, in order."""

    def __init__(self, page: Page, network: Network) -> None:
        self.page = page
        self.network = network
        self.manifests = Manifests(EXAMPLES / "demo")
        self.stage = Stage(network, self.manifests.path)
        self.client = network["client"]
        self.director = network["director"]

    def tell(self) -> None:
        """All of it. DemoError, AssertionError or OSError where it does not go on."""
        self.the_network()
        self.the_manifest()
        self.the_agents()
        streams = Crowd(self.client, VIP, PORT)
        opened = streams.open(streaming=STREAMS)
        expect(opened.intact == STREAMS, f"of {STREAMS} streams these could not be opened:\n{opened}")
        self.the_change("NAT", "DR", streams)
        self.the_change("DR", "TUN", streams)
        streams.finish()
        self.the_drain()
        self.the_end()

    def the_network(self) -> None:
        """Six hosts."""
        self.page.heading("A network appears: six hosts in one kernel")
        for line in drawing(self.network, f"the VIP {VIP} will be here"):
            self.page.line(line)
        self.page.line()
        serve([self.network[name] for name in SERVERS], PORT)
        self.page.say(f"{versions(self.director)}. Each real server answers on port {PORT} with its name.")
        self.stage.before = self.stage.dump()
        lines = sum(len(rows) for dump in self.stage.before.values() for rows in dump.sections.values())
        self.page.say(
            f"What ipvsadm, ip, nft and /proc/sys say about {', '.join(AGENTS)} is kept for the end: {lines} lines."
        )

    def the_manifest(self) -> None:
        """What is wanted."""
        self.page.heading("What is wanted: YAML, the same as in a cluster")
        self.page.listing(f"examples/demo/{FILE}", (self.manifests.path / FILE).read_text())
        others = sorted(path.name for path in self.manifests.path.glob("*.yaml") if path.name != FILE)
        self.page.line(f"beside it: {', '.join(others)} (who directs, and which host has which address)", DIM)

    def the_agents(self) -> None:
        """The agents make it so."""
        self.page.heading("One agent on each host: ipvs-agent plan, then ipvs-agent run")
        self.plan("director", self.manifests.path)
        started = time.monotonic()
        self.stage.start_agents()
        self.stage.await_reports()
        self.page.line()
        for name, agent in self.stage.agents.items():
            first = agent.output().splitlines()[0].removeprefix("INFO ").rstrip(": ")
            self.page.line(f"{name:9} ipvs-agent run: {first}")
        await_condition(lambda: self.holds(VIP), 30, f"the director to take {VIP}", every=0.05)
        self.page.fact(
            f"the director has {VIP} on its network card, after asking whether somebody else answers for it; "
            f"{time.monotonic() - started:.1f} s after the agents were started"
        )
        self.page.line()
        self.requests("NAT")

    def the_change(self, old: str, new: str, streams: Crowd) -> None:
        """Another forwarding method."""
        self.page.heading(f"{old} → {new}: one field, while {STREAMS} streams run and new connections come")
        self.page.say(WAY[new])
        lines = f"forwarding: {old}", f"forwarding: {new}"
        text = self.manifests.changed(FILE, *lines)
        draft = Manifests(self.manifests.path)
        draft.replace(FILE, text)
        self.plan("rs1", draft.path)
        earlier = streams.check()
        newcomers = Newcomers(self.client, VIP, PORT)
        await_condition(lambda: len(newcomers.attempts()) > 5, 20, "new connections", every=0.05)
        self.page.line()
        self.page.edit(FILE, *([f"  {line}"] for line in lines))
        edited = time.monotonic()
        self.manifests.replace(FILE, text)
        await_condition(lambda: self.destinations() == Counter({FLAG[new]: len(SERVERS)}), 30, new, every=0.05)
        await_condition(lambda: newcomers.answered_since(edited, 1.0), 30, "answers to new connections", every=0.1)
        newcomers.stop()
        report = streams.check()
        expect(report.intact == STREAMS, f"established connections broke when {old} became {new}:\n{report}")
        self.page.fact(
            f"established: {report.intact} of {STREAMS} streams go on; {report.bytes - earlier.bytes:,} bytes came in "
            "the meantime and every one was checked"
        )
        seen = gap(newcomers.attempts(), edited)
        self.page.fact(
            f"new: one every {INTERVAL * 1000:.0f} ms, {seen.tried} since the edit, "
            + (
                f"{seen.failed} without an answer: a gap of {seen.milliseconds} ms, from {seen.begins * 1000:.0f} to "
                f"{seen.ends * 1000:.0f} ms after it. Hosts do not report to each other here, so the director goes "
                "ahead before the real servers have followed"
                if seen.failed
                else "all answered"
            )
        )
        self.page.line()
        self.requests(new)

    def the_drain(self) -> None:
        """A real server leaves."""
        leaving, address = SERVERS[-1], self.network[SERVERS[-1]].address("lan")
        self.page.heading(f"{leaving} is taken out while somebody downloads from it")
        downloads = Crowd(self.client, VIP, PORT)
        held = downloads.open(downloads=DOWNLOADS, size=DOWNLOAD_SIZE)
        expect(leaving in held.by_server, f"none of {DOWNLOADS} downloads is from {leaving}: {held.by_server}")
        line = f"    - {{address: {address}}}\n"
        text = self.manifests.changed(FILE, line, "")
        self.page.edit(FILE, [line.rstrip()], [])
        began = time.monotonic()
        self.manifests.replace(FILE, text)
        await_condition(lambda: self.weight(address) == 0, 30, f"weight 0 for {leaving}", every=0.05)
        self.page.fact(f"after {(time.monotonic() - began) * 1000:.0f} ms {leaving} has weight 0: it drains")
        underway = downloads.check()
        expect(
            underway.complete == 0 and underway.intact == DOWNLOADS, f"the downloads should be under way:\n{underway}"
        )
        self.page.line()
        tally = self.requests("TUN", without=leaving)
        expect(leaving not in tally.answers, f"{leaving} still gets new connections: {tally.answers}")
        self.page.line()
        self.page.command("director", "ipvs-agent status", self.director.run("ipvs-agent", "status").stdout)
        self.page.line()
        report = downloads.finish(60)
        expect(report.complete == DOWNLOADS, f"downloads were cut:\n{report}")
        self.page.fact(
            f"{held.by_server[leaving]} download from {leaving} and {DOWNLOADS - held.by_server[leaving]} from the "
            f"others arrived whole, {time.monotonic() - began:.1f} s after the edit: {report.bytes:,} bytes, each checked"
        )
        await_condition(lambda: self.weight(address) is None, 60, f"{leaving} to leave IPVS", every=0.1)
        self.page.fact(
            f"{leaving} has left IPVS {time.monotonic() - began:.1f} s after the edit, when its packet counters had "
            "stood still for a while"
        )
        self.page.line()
        self.page.command("director", "ipvsadm -Ln", self.director.run("ipvsadm", "-Ln").stdout)

    def the_end(self) -> None:
        """Agents stop, traffic goes on; release, and nothing is left."""
        self.page.heading("The agents stop, and the traffic does not; then ipvs-agent release")
        self.stage.stop_agents()
        tally = clients(self.client, REQUESTS, VIP, PORT)
        expect(not tally.errors, f"without agents, of {REQUESTS} requests these failed: {dict(tally.errors)}")
        self.page.fact(f"no agent runs any more: {tally.answers.total()} of {REQUESTS} requests are answered")
        self.page.line()
        for name, output in self.stage.everywhere("ipvs-agent", "release").items():
            if name in ("director", SERVERS[0]):
                self.page.command(name, "ipvs-agent release", output)
        self.page.line()
        left = list(differences(self.stage.before, self.stage.dump()))
        expect(not left, "this is not as it was before:\n" + "\n".join(left))
        self.page.fact(
            f"nothing is left: ipvsadm, ip, nft and /proc/sys say about {', '.join(AGENTS)} what they said at the "
            "beginning, line by line"
        )

    # measuring

    def holds(self, address: str) -> bool:
        """Whether the director has an address."""
        return any(entry["local"] == address for link in self.director.addresses() for entry in link["addr_info"])

    def destinations(self) -> Counter[str]:
        """How the director's destinations are forwarded to, by ipvsadm's flags."""
        return Counter(flag for line in self.director.ipvs() if (flag := _option(line, "-[mgi]")))

    def weight(self, address: str) -> int | None:
        """A destination's weight on the director; None when it is not there."""
        for line in self.director.ipvs():
            if f"-r {address}:" in line:
                found = re.search(r"-w (\d+)", line)
                return int(found.group(1)) if found else None
        return None

    def plan(self, host: str, manifests: Path) -> None:
        """`ipvs-agent plan` on a host."""
        command = ("ipvs-agent", "plan", "--manifests", str(manifests), "--node", host)
        output = self.network[host].run(*command).stdout
        self.page.command(host, f"ipvs-agent plan --manifests … --node {host}", output)

    def requests(self, method: str, without: str = "") -> Histogram:
        """A hundred requests, shown; each must be answered, and by real servers in proportion to their weights."""
        watched = f"src host {VIP} and tcp[tcpflags] & (tcp-syn|tcp-ack) == (tcp-syn|tcp-ack)"
        with self.director.capture("eth0", watched, snaplen=64) as passing:
            tally = clients(self.client, REQUESTS, VIP, PORT)
        expect(not tally.errors, f"of {REQUESTS} requests by {method}, these failed: {dict(tally.errors)}")
        self.page.line(f"{REQUESTS} requests by {method}:", BOLD)
        self.page.bars({name: tally.answers[name] for name in SERVERS})
        through = len(passing.packets())
        clients_seen = sorted({address for addresses in tally.seen.values() for address in addresses})
        names = {self.client.address(): "the client's own", self.director.address("lan"): "the director's"}
        seen = ", ".join(f"{address} ({names.get(address, 'nobody’s here')})" for address in clients_seen)
        self.page.fact(f"{through} of {REQUESTS} answers passed the director; the real servers saw clients as {seen}")
        return tally


def _option(line: str, pattern: str) -> str:
    found = re.search(rf"(?<= ){pattern}(?= )", line)
    return found.group() if found and line.startswith("-a") else ""


def tell(page: Page) -> int:
    """The demo, inside a lab. 0, or an exception that says what went wrong."""
    with Network(one()) as network:
        Story(page, network).tell()
    return 0
