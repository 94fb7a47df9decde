"""The agent dies between any two of its writes, to the kernel or to its state, one after the other; the next one goes
on to the same end.

A trap in the agent's process counts what it writes and kills it (SIGKILL) before the n-th write. Every message to
netlink is a send of its own here, so that a kill falls between the parts of what is otherwise one send.
"""

import mmap
import os
import signal
import sqlite3
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.conftest import MakeSite, Site, run_agent, virtual_service
from tests.kernel.crowds import SERVERS, VIP, Held, change, serve_all, shape

import ipvs_agent.kernel.netlink as netlink
import ipvs_agent.kernel.nft as nft
from ipvs_agent.kernel.nft_program import run as run_nft
from ipvs_agent.kernel.rtnetlink import NEWNEIGH
from ipvs_agent.kernel.sysctls import SysctlsTable
from ipvs_agent.store import Store
from ipvs_lab.net import await_condition, clients
from ipvs_lab.topologies import one

pytestmark = pytest.mark.lab_timeout(600)  # hundreds of agents, one after the other

READS = ("SELECT", "PRAGMA", "BEGIN")
FOREIGN = (
    "ipvsadm -A -t 192.0.2.99:80 -s rr && ipvsadm -a -t 192.0.2.99:80 -r 192.0.2.101 -m",
    "ip addr add 192.0.2.98/32 dev eth0",
    "ip route add 203.0.113.0/24 via 192.0.2.1",
    "ip rule add fwmark 7 lookup 77",
    "nft add table inet theirs '{ chain input { type filter hook input priority 5; counter; }; }'",
)


class Trap:
    """Counts the writes of processes forked after it was made; kills the one that is about to do the fatal one.
    ``log``: a file that keeps what they are."""

    def __init__(self, log: Path) -> None:
        self._shared = mmap.mmap(-1, 16)
        self._log = log
        self.set(0)

    def set(self, fatal: int) -> None:
        """Kill before the ``fatal``-th write from now on; 0: only count."""
        self._shared[:] = struct.pack("QQ", 0, fatal)
        self._log.write_text("")

    def told(self) -> list[str]:
        """What was written since ``set``."""
        return self._log.read_text().splitlines()

    @property
    def count(self) -> int:
        return int(struct.unpack("QQ", self._shared[:])[0])

    def write(self, what: str) -> None:
        """A write is about to happen."""
        count, fatal = struct.unpack("QQ", self._shared[:])
        with self._log.open("a") as log:
            log.write(f"{time.monotonic():.2f} {what}\n")
        self._shared[:8] = struct.pack("Q", count + 1)
        if count + 1 == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    def before(self, call: Callable[..., Any], what: str) -> Callable[..., Any]:
        """``call``, counted."""

        def counted(*arguments: Any, **options: Any) -> Any:
            if _asks_for_neighbours(arguments):
                return call(*arguments, **options)
            self.write(f"{what} {arguments} {options}"[:400])
            return call(*arguments, **options)

        return counted

    def run_agent(self, *arguments: str) -> int:
        """An agent whose every write is counted."""
        seams: tuple[Any, ...] = (netlink, netlink.RequestSocket, SysctlsTable, nft, Store)
        messages, exchange, switches, rules, state = seams
        messages.SEND_BYTES = 1
        exchange._send = self.before(exchange._send, "netlink")
        switches._write = self.before(switches._write, "sysctl")
        rules.run = lambda *words, text="": self.before(run_nft, "nft")(*words, text=text) if text else run_nft(*words)
        create = state._create

        def create_counted(store: Any) -> None:
            create(store)
            store._db = Counted(store._db, self)

        state._create = create_counted
        return run_agent(*arguments)


def _asks_for_neighbours(arguments: tuple[Any, ...]) -> bool:
    """Whether these are messages that only have the kernel ask who a neighbour is: they come again and again, with no
    regard to what changed, and leave nothing that a kill could leave half done."""
    messages = arguments[1] if len(arguments) > 1 else ()
    return isinstance(messages, list) and {getattr(each, "type", None) for each in messages} == {NEWNEIGH}


class Counted:
    """A database connection on which whatever becomes durable is counted: commits, and statements outside of them."""

    def __init__(self, db: sqlite3.Connection, trap: Trap) -> None:
        self._db, self._trap = db, trap
        self._durable = db.total_changes

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        word = statement.split()[0]
        if word == "COMMIT":
            if self._db.total_changes != self._durable:
                self._trap.write("COMMIT")
            self._durable = self._db.total_changes
        elif word not in READS and not self._db.in_transaction:
            self._trap.write(statement)
        return self._db.execute(statement, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


class Rig:
    """A site of which one host's agent is under a trap."""

    def __init__(self, lvs: Site, name: str) -> None:
        self.lvs, self.name, self.trap = lvs, name, Trap(lvs.net.directory / "writes")
        self.host = lvs[name]

    def start(self, fatal: int = 0) -> None:
        """Start the agent."""
        self.trap.set(fatal)
        words = ("run", "--manifests", str(self.lvs.directory), "--node", self.name)
        self.lvs.agents[self.name] = self.host.fork(self.trap.run_agent, *words, name="agent")

    def dies(self) -> bool:
        """True when the trap's victim is dead; False when it did all it had to and lives."""
        agent = self.lvs.agents[self.name]
        try:
            assert agent.wait(SETTLED) == -signal.SIGKILL, agent.output()
        except AssertionError:
            assert agent.running(), agent.output()
            return False
        del self.lvs.agents[self.name]
        return True

    def same(self, expected: Counter[str], when: str) -> None:
        """The host is as it is when nobody is killed, and its agent lives."""
        problem = change(expected, shape(self.host))
        assert not problem, f"{when}: {problem}"
        assert self.lvs.agents[self.name].running(), self.lvs.agents[self.name].output()

    def each_write(self, what: str, do: Callable[[], None], undo: Callable[[], None]) -> int:
        """``do`` a change with the agent killed before its first write, its second, … and started again each time,
        until it lives through; ``undo`` it in between. Returns how many kills that were."""
        self.trap.set(0)
        do()
        time.sleep(SETTLED)
        expected, undisturbed, writes = shape(self.host), self.trap.told(), self.trap.count
        fatal = 0
        while True:
            self.quietly(undo)
            fatal += 1
            self.trap.set(fatal)
            do()
            if not self.dies():
                break
            self.start()
            time.sleep(SETTLED)
            self.same(expected, f"{what}, killed before write {fatal}")
        self.same(expected, what)
        print(f"{what}: {fatal - 1} kills, {writes} writes undisturbed")
        assert fatal - 1 >= writes, "\n".join(["undisturbed:", *undisturbed, "the last time:", *self.trap.told()])
        return fatal - 1

    def quietly(self, do: Callable[[], None]) -> None:
        """Without a kill, to its end."""
        self.trap.set(0)
        do()
        time.sleep(SETTLED)


SETTLED = 20.0
"""Seconds after which an agent has nothing left to write: its start on a slow machine, probes, the drain of a server
without connections. Before the first audit, which writes nothing but might be what is killed."""


SPEC = {"forwarding": "NAT", "drain": {"timeoutSeconds": 3600}}  # longer than all of a test: what lingers stays


@pytest.fixture
def lvs(site: MakeSite) -> Site:
    """A director and real servers without agents, foreign things beside ours."""
    made = site(one(), nodes=SERVERS)
    serve_all(made)
    for command in FOREIGN:
        made["director"].run("sh", "-c", command)
    made.put(virtual_service("web", VIP[4], 80, made.servers(*SERVERS), **SPEC))
    return made


def change_of(lvs: Site, **spec: Any) -> Callable[[], None]:
    """Edit ``web`` when called."""
    return lambda: lvs.edit("web", **spec)


def test_a_first_programming_and_a_removal_survive_a_kill_before_each_write(lvs: Site) -> None:
    lvs.start(*SERVERS)
    rig = Rig(lvs, "director")
    untouched = shape(rig.host)

    def release() -> None:
        lvs.stop("director")
        lvs.agent("director", "release")
        assert not change(untouched, shape(rig.host)), "release leaves what was there before"

    rig.start()
    time.sleep(SETTLED)
    programmed, writes = shape(rig.host), rig.trap.count
    assert clients(lvs["client"], 6, VIP[4], 80).answers == dict.fromkeys(SERVERS, 2)
    fatal = 0
    while True:
        release()
        fatal += 1
        rig.start(fatal)
        if not rig.dies():
            break
        rig.start()
        time.sleep(SETTLED)
        rig.same(programmed, f"first programming, killed before write {fatal}")
    print(f"first programming: {fatal - 1} kills, {writes} writes undisturbed")
    assert fatal - 1 >= writes > 15
    assert clients(lvs["client"], 6, VIP[4], 80).answers == dict.fromkeys(SERVERS, 2)

    manifest = lvs.manifests["VirtualService", "web"]
    kills = rig.each_write(
        "service removed", lambda: lvs.remove("VirtualService", "web"), lambda: lvs.put(dict(manifest))
    )
    assert kills > 8
    assert VIP[4] not in rig.host.nft()
    assert VIP[4] not in lvs.held("director")
    assert "192.0.2.98" in lvs.held("director")


def test_changes_survive_a_kill_before_each_write_with_two_hundred_connections(lvs: Site) -> None:
    lvs.start(*SERVERS)
    rig = Rig(lvs, "director")
    two, three = ([{"address": rip} for rip in lvs.servers(*names)] for names in (SERVERS[:2], SERVERS))
    lvs.edit("web", backends={"static": two})
    rig.start()
    lvs.settled()
    held = Held(lvs, VIP[4])
    held.open(idle=200)
    for name, there, back in (
        ("forwarding changed", {"forwarding": "DR"}, {"forwarding": "NAT"}),
        ("server removed", {"backends": {"static": two}}, {"backends": {"static": three}}),
    ):
        for spec in (there, back):  # what lingers after either is there from now on
            rig.quietly(change_of(lvs, **spec))
        kills = rig.each_write(name, change_of(lvs, **there), change_of(lvs, **back))
        assert kills > 2
        held.check(f"{kills} kills while: {name}")
    await_condition(lambda: clients(lvs["client"], 6, VIP[4], 80).answers == {"rs1": 3, "rs2": 3}, 5)


def test_a_real_servers_role_comes_and_goes_whichever_write_its_agent_is_killed_before(lvs: Site) -> None:
    lvs.edit("web", drain={"timeoutSeconds": 5})
    lvs.start("director", "rs2", "rs3")
    rig = Rig(lvs, "rs1")
    rig.start()
    lvs.settled()
    rig.quietly(change_of(lvs, forwarding="DR"))  # rules of nftables stay from now on
    rig.quietly(change_of(lvs, forwarding="NAT"))
    dr, nat = change_of(lvs, forwarding="DR"), change_of(lvs, forwarding="NAT")
    assert rig.each_write("role gained", dr, nat) > 4
    assert clients(lvs["client"], 6, VIP[4], 80).answers == dict.fromkeys(SERVERS, 2)
    assert rig.each_write("role lost", nat, dr) > 3
    assert VIP[4] not in lvs.held("rs1")
    assert clients(lvs["client"], 6, VIP[4], 80).answers == dict.fromkeys(SERVERS, 2)
