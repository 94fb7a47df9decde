"""New connections, one every few milliseconds, from a process of their own: whom they reach, and when nobody answers.

A client that gets no answer to its SYN sends the next one after a second, so an attempt that has to be repeated counts
as not answered here.
"""

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import NamedTuple

from ipvs_lab.net import Host
from ipvs_lab.net.clients import exchange, kind_of

INTERVAL = 0.02  # seconds between two attempts
TIMEOUT = 0.9  # seconds for each: less than TCP's first retransmission


class Attempt(NamedTuple):
    """One new connection. `started` in seconds of the monotonic clock; `server` is "" when nobody answered."""

    started: float
    server: str


class Gap(NamedTuple):
    """How a change looked to new connections: so many tried since, so many without an answer.

    `begins`, `ends`: seconds from the change to the first one without an answer, and to the first of those after
    which all were answered.
    """

    tried: int
    failed: int
    begins: float
    ends: float

    @property
    def milliseconds(self) -> int:
        """Its length."""
        return round((self.ends - self.begins) * 1000)


def gap(attempts: Sequence[Attempt], since: float) -> Gap:
    """The gap after a moment. An attempt that started INTERVAL before it may have met the change as well."""
    ours = sorted(attempt for attempt in attempts if attempt.started >= since - INTERVAL)
    failed = [attempt.started for attempt in ours if not attempt.server]
    if not failed:
        return Gap(len(ours), 0, 0.0, 0.0)
    again = min((attempt.started for attempt in ours if attempt.started > failed[-1]), default=time.monotonic())
    return Gap(len(ours), len(failed), failed[0] - since, again - since)


class Newcomers:
    """The process that tries, until it is stopped."""

    def __init__(self, host: Host, target: str, port: int) -> None:
        self.child = host.fork(lambda: asyncio.run(arrive(target, port)), name="newcomers")

    def attempts(self) -> list[Attempt]:
        """Those that are over."""
        lines = self.child.output().splitlines(keepends=True)
        rows = (line.split() for line in lines if line.endswith("\n"))
        return [Attempt(float(started), "" if outcome.startswith("!") else outcome) for started, outcome in rows]

    def answered_since(self, moment: float, stretch: float) -> bool:
        """Whether every attempt of a stretch of seconds that began at or after `moment` has been answered, up to the
        newest that can be known."""
        attempts = sorted(attempt for attempt in self.attempts() if attempt.started >= moment)
        run: list[Attempt] = []
        for attempt in attempts:
            run = [*run, attempt] if attempt.server else []
        # An older attempt may still be waiting for an answer that does not come.
        return bool(run) and run[-1].started - run[0].started >= stretch

    def stop(self) -> None:
        """No more."""
        self.child.kill()
        self.child.wait(10)


async def arrive(target: str, port: int) -> None:
    """Try for ever. One line for each attempt: when it started, and who answered or an error with a "!"."""
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
    try:
        outcome = (await asyncio.wait_for(exchange(sock, target, port), TIMEOUT)).server
    except OSError as error:
        outcome = "!" + kind_of(error).replace(" ", "-")
    print(started, outcome)
