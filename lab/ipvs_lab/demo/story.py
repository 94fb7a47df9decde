"""The story of `make demo`, with the manifests of examples/demo. Every number in it is measured as it is told."""

import re
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from ipvs_lab.demo.newcomers import INTERVAL, SLOW, Gap, Newcomers, answered_for, gap
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
from ipvs_lab.net import Child, Crowd, Histogram, Network, await_condition, clients, serve
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


class Leaving(NamedTuple):
    """A real server that drains: `began` by the monotonic clock, `watch` writes when it has gone."""

    name: str
    address: str
    began: float
    watch: Child


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
        self.the_drain()
        streams = Crowd(self.client, VIP, PORT)
        opened = streams.open(streaming=STREAMS)
        expect(opened.intact == STREAMS, f"of {STREAMS} streams these could not be opened:\n{opened}")
        self.the_change("NAT", "DR", streams)
        self.the_change("DR", "TUN", streams)
        streams.finish()
        self.the_departure()
        self.the_kernel()
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
        self.stage.await_settled()
        took = time.monotonic() - started
        self.page.line()
        for name, said in self.stage.readiness().items():
            self.page.line(f"{name:9} ipvs-agent run: {said}")
            expect(
                said.startswith("Ready=True"), f"the agent on {name} is not ready:\n{self.stage.agents[name].output()}"
            )
        expect(self.holds(VIP), f"the director is ready and has no {VIP}:\n{self.stage.agents['director'].output()}")
        self.page.fact(
            f"{took:.1f} s after the agents were started the director has {VIP} on its network card, having asked the "
            "network whether somebody else answers for it"
        )
        self.page.line()
        self.requests("NAT")

    def the_drain(self) -> None:
        """A real server leaves."""
        leaving, address = SERVERS[-1], self.network[SERVERS[-1]].address("lan")
        self.page.heading(f"{leaving} is taken out of the manifest while somebody downloads from it")
        downloads = Crowd(self.client, VIP, PORT)
        held = downloads.open(downloads=DOWNLOADS, size=DOWNLOAD_SIZE)
        expect(leaving in held.by_server, f"none of {DOWNLOADS} downloads is from {leaving}: {held.by_server}")
        line = f"    - {{address: {address}}}\n"
        text = self.manifests.changed(FILE, line, "")
        self.page.edit(FILE, [line.rstrip()], [])
        began = time.monotonic()
        self.manifests.replace(FILE, text)
        await_condition(lambda: self.weight(address) == 0, 30, f"weight 0 for {leaving}", every=0.05)
        self.page.fact(f"{(time.monotonic() - began) * 1000:.0f} ms later {leaving} has weight 0: it drains")
        underway = downloads.check()
        busy = underway.intact == DOWNLOADS and not underway.complete
        expect(busy, f"the downloads should be under way:\n{underway}")
        self.page.line()
        tally = self.requests("NAT")
        expect(leaving not in tally.answers, f"{leaving} still gets new connections: {tally.answers}")
        self.page.line()
        self.page.command("director", "ipvs-agent status", self.director.run("ipvs-agent", "status").stdout)
        self.page.line()
        report = downloads.finish(60)
        expect(report.complete == DOWNLOADS, f"downloads were cut:\n{report}")
        self.page.fact(
            f"the downloads ({held.by_server[leaving]} of {DOWNLOADS} is from {leaving}) arrived whole "
            f"{time.monotonic() - began:.1f} s after the edit: {report.bytes:,} bytes, each checked"
        )
        self.page.say("It leaves IPVS once nothing moves any more, which takes a while. Meanwhile:")
        self.leaving = Leaving(leaving, address, began, self.director.fork(tell_when_gone, address))

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
        await_condition(lambda: self.methods() == {FLAG[new]}, 30, f"{new} in the director's kernel", every=0.05)
        # What is late is not known before it has waited, so the stretch without any has to be longer than that.
        settled = 1.5 * SLOW
        await_condition(
            lambda: answered_for(newcomers.attempts(), edited) > settled, 30, "answers to new connections", every=0.1
        )
        newcomers.stop()
        report = streams.check()
        expect(report.intact == STREAMS, f"established connections broke when {old} became {new}:\n{report}")
        self.page.fact(
            f"established: {report.intact} of {STREAMS} streams go on; {report.bytes - earlier.bytes:,} bytes came in "
            "the meantime and every one was checked"
        )
        self.page.fact(gap_words(gap(newcomers.attempts(), edited)))
        self.page.line()
        self.requests(new)

    def the_departure(self) -> None:
        """The end of the drain that began before the changes."""
        name, _, began, watch = self.leaving
        expect(watch.wait(90) == 0, f"{name} could not be watched as it left:\n{watch.output()}")
        self.page.line()
        self.page.fact(f"{name} left IPVS {float(watch.output()) - began:.1f} s after it was taken out of the manifest")

    def the_kernel(self) -> None:
        """What is there now, by tools that are not ours."""
        self.page.heading("What the kernels have now, as ipvsadm, ip and nft tell it")
        self.page.command("director", "ipvsadm -Ln", self.director.run("ipvsadm", "-Ln").stdout)
        self.page.line()
        server = self.network[SERVERS[0]]
        own = ("ip", "-br", "addr", "show", "up")
        self.page.command(server.name, " ".join(own), server.run(*own).stdout)
        self.page.line()
        silence = ("nft", "list", "chain", "arp", "ipvs-operator", "silence-in")
        self.page.command(server.name, " ".join(silence), server.run(*silence).stdout)

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

    def methods(self) -> set[str]:
        """How the director forwards to real servers that get new connections, as ipvsadm's options."""
        found = (re.search(r" (-[mgi]) -w (\d+)", line) for line in self.director.ipvs() if line.startswith("-a"))
        return {option.group(1) for option in found if option and option.group(2) != "0"}

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

    def requests(self, method: str) -> Histogram:
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


def gap_words(seen: Gap) -> str:
    """What new connections met, in words."""
    tried = f"new: one every {INTERVAL * 1000:.0f} ms, {seen.tried} since the edit: "
    if not seen.late + seen.failed.total():
        return f"{tried}all answered at once"
    what = [f"{seen.late} had to wait for a second"] if seen.late else []
    what += [f"{count} failed ({error})" for error, count in sorted(seen.failed.items())]
    return (
        f"{tried}{', '.join(what)}. That is a gap of {seen.milliseconds} ms, {max(seen.begins, 0) * 1000:.0f} ms after "
        "the edit: hosts do not report to each other here, so the director goes ahead before every real server is ready"
    )


def tell_when_gone(address: str) -> None:
    """Look at IPVS until a real server is not there any more; then write when that was."""
    while f"-r {address}:" in subprocess.run(["ipvsadm", "-Sn"], capture_output=True, check=True, text=True).stdout:
        time.sleep(0.3)
    print(time.monotonic())


def tell(page: Page) -> int:
    """The demo, inside a lab. 0, or an exception that says what went wrong."""
    with Network(one()) as network:
        Story(page, network).tell()
    return 0
