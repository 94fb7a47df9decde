"""New connections, one every few milliseconds, from a process of their own: whom they reach, and when nobody answers.

A client that gets no answer to its SYN sends the next one after a second. So what a gap means to people is a second's
wait, and it is seen here as attempts that took longer than SLOW.
"""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ipvs_lab.net import Host
from ipvs_lab.net.clients import exchange, kind_of

INTERVAL = 0.04  # seconds between two attempts
SLOW = 0.9  # seconds: less than TCP's first retransmission takes
TIMEOUT = 5.0  # seconds for each


class Attempt(NamedTuple):
    """One new connection. `started` in seconds of the monotonic clock; `seconds` until it was over; `server` is "" when
    none answered, and `error` says what happened instead."""

    started: float
    seconds: float
    server: str
    error: str

    @property
    def at_once(self) -> bool:
        """Whether it was answered without waiting for another SYN."""
        return bool(self.server) and self.seconds < SLOW


class Gap(NamedTuple):
    """How a change looked to new connections: so many tried since, so many of them late, so many failed, by error.

    `begins`, `ends`: seconds from the change to the first one that was not answered at once, and to the first of those
    after which all were.
    """

    tried: int
    late: int
    failed: Counter[str]
    begins: float
    ends: float

    @property
    def milliseconds(self) -> int:
        """Its length."""
        return round((self.ends - self.begins) * 1000)


def gap(attempts: Sequence[Attempt], since: float) -> Gap:
    """The gap after a moment. An attempt that started INTERVAL before it may have met the change as well."""
    ours = sorted(attempt for attempt in attempts if attempt.started >= since - INTERVAL)
    missed = [attempt for attempt in ours if not attempt.at_once]
    failed = Counter(attempt.error for attempt in missed if not attempt.server)
    if not missed:
        return Gap(len(ours), 0, failed, 0.0, 0.0)
    last = missed[-1].started
    again = min((attempt.started for attempt in ours if attempt.started > last), default=last + INTERVAL)
    return Gap(len(ours), len(missed) - failed.total(), failed, missed[0].started - since, again - since)


def answered_for(attempts: Sequence[Attempt], since: float) -> float:
    """For how many seconds, up to the newest attempt since a moment, every one was answered at once."""
    ours = sorted(attempt for attempt in attempts if attempt.started >= since)
    missed = [number for number, attempt in enumerate(ours) if not attempt.at_once]
    good = ours[missed[-1] + 1 if missed else 0 :]
    return good[-1].started - good[0].started if good else 0.0


class Newcomers:
    """The process that tries, until it is stopped."""

    def __init__(self, host: Host, target: str, port: int) -> None:
        self.child = host.fork(lambda: asyncio.run(arrive(target, port)), name="newcomers")

    def attempts(self) -> list[Attempt]:
        """Those that are over."""
        lines = self.child.output().splitlines(keepends=True)
        rows = (line.rstrip("\n").split("\t") for line in lines if line.endswith("\n"))
        return [Attempt(float(started), float(seconds), server, error) for started, seconds, server, error in rows]

    def stop(self) -> None:
        """No more."""
        self.child.kill()
        self.child.wait(10)


async def arrive(target: str, port: int) -> None:
    """Try for ever. One line for each attempt: the fields of `Attempt`, with tabs between them."""
    tasks: set[asyncio.Task[None]] = set()
    while True:
        tasks.add(task := asyncio.create_task(attempt_once(target, port)))
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(INTERVAL)


async def attempt_once(target: str, port: int) -> None:
    """One attempt, told on standard output."""
    started = time.monotonic()
    sock = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    server = problem = ""
    try:
        server = (await asyncio.wait_for(exchange(sock, target, port), TIMEOUT)).server
    except OSError as error:
        problem = kind_of(error)
    print(started, time.monotonic() - started, server, problem, sep="\t")
