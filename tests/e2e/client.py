"""A client that asks who answers, as a plain file with nothing but the standard library: it runs on the client host.

    client.py ask tcp|udp ADDRESS PORT COUNT     one after the other; a JSON list of answers, or of what went wrong
    client.py load ADDRESS,… PORT RATE           in turn, until its input ends; a JSON object: see `Load.told`
    client.py first ADDRESS PORT                 `asking`, and who gives the first answer, as soon as there is one

The load is open-loop: a request begins when its time has come, whatever became of those before.
"""

import asyncio
import contextlib
import json
import resource
import socket
import sys
import time
from collections import Counter
from typing import Any

PATIENCE = 10.0  # seconds: two lost packets of a handshake are sent again within that
SLOW = 1.0
TOLD = 10  # of the failures, and of the slow
RETRANSMITTED = slice(100, 104)  # struct tcp_info, tcpi_total_retrans
HTTP = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"


def new_socket(address: str, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setblocking(False)
    return sock


class Request:
    """A request on a connection of its own: how far it came, from which port, and how many packets were sent again."""

    def __init__(self) -> None:
        self.stage, self.port, self.again = "connecting", 0, 0

    def __str__(self) -> str:
        return f"{self.stage} from port {self.port}, {self.again} packets sent again"

    def look(self, sock: socket.socket) -> None:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        self.again = int.from_bytes(told[RETRANSMITTED], sys.byteorder)
        self.port = sock.getsockname()[1]


async def by_http(address: str, port: int, seen: Request | None = None) -> tuple[str, int]:
    """What was answered, whole, and how many packets were sent again."""
    loop = asyncio.get_running_loop()
    seen = seen or Request()
    with new_socket(address, socket.SOCK_STREAM) as sock:
        try:
            await loop.sock_connect(sock, (address, port))
            await loop.sock_sendall(sock, HTTP)
            seen.stage = "waiting for an answer"
            answer = b""
            while data := await loop.sock_recv(sock, 4096):
                seen.stage = "waiting for the rest"
                answer += data
        finally:
            seen.look(sock)
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.") or head.split()[1] != b"200" or not body.endswith(b"\n"):
        raise ConnectionError(f"half an answer: {answer!r}")
    return body.decode().strip(), seen.again


async def by_datagram(address: str, port: int) -> tuple[str, int]:
    loop = asyncio.get_running_loop()
    with new_socket(address, socket.SOCK_DGRAM) as sock:
        await loop.sock_connect(sock, (address, port))
        await loop.sock_sendall(sock, b"who\n")
        return (await loop.sock_recv(sock, 4096)).decode().strip(), 0


def kind_of(error: Exception) -> str:
    return "timeout" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"


async def ask(proto: str, address: str, port: int, count: int) -> list[str]:
    """Answers, `NAME CLIENT`; of what failed, `! ` and why."""
    method = {"tcp": by_http, "udp": by_datagram}[proto]
    answers = []
    for _ in range(count):
        try:
            answer, _ = await asyncio.wait_for(method(address, port), 3)
        except (OSError, TimeoutError) as error:
            answer = f"! {kind_of(error)}"
        answers.append(answer)
    return answers


class Load:
    """Requests at a steady rate, each on a connection of its own, to these addresses in turn."""

    def __init__(self, addresses: list[str], port: int, rate: float) -> None:
        self.addresses, self.port, self.rate = addresses, port, rate
        self.answers: Counter[str] = Counter()
        self.failures: list[tuple[float, str, str]] = []
        self.slow: list[tuple[float, float]] = []
        self.latencies: list[float] = []
        self.again = 0
        self.behind = 0.0
        self.start = time.monotonic()

    async def one(self, address: str) -> None:
        began, request = time.monotonic(), Request()
        try:
            answer, again = await asyncio.wait_for(by_http(address, self.port, request), PATIENCE)
        except (OSError, TimeoutError) as error:
            self.failures.append((round(began - self.start, 3), address, f"{kind_of(error)} {request}"))
            return
        took = time.monotonic() - began
        self.answers[answer.split()[0]] += 1
        self.again += again
        self.latencies.append(took)
        if took > SLOW:
            self.slow.append((round(began - self.start, 3), round(took, 3)))

    async def run(self, ended: asyncio.Event) -> None:
        """Until `ended`, and until what was begun has ended."""
        under_way: set[asyncio.Task[None]] = set()
        self.start = time.monotonic()
        number = 0
        while not ended.is_set():
            due = self.start + number / self.rate
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            self.behind = max(self.behind, -early)
            task = asyncio.create_task(self.one(self.addresses[number % len(self.addresses)]))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
            if number == 1:
                await task
                print("first", flush=True)
            elif early <= 0:
                await asyncio.sleep(0)  # behind: those that are under way must go on all the same
        self.seconds = time.monotonic() - self.start
        self.count = number
        await asyncio.gather(*under_way)

    def told(self) -> dict[str, Any]:
        """Times in seconds; `failures` and `slowest` since the start."""
        ordered = sorted(self.latencies)
        return {
            "count": self.count,
            "seconds": round(self.seconds, 1),
            "answers": self.answers,
            "failed": len(self.failures),
            "failures": self.failures[:TOLD],
            "slow": len(self.slow),
            "slowest": sorted(self.slow, key=lambda one: -one[1])[:TOLD],
            "again": self.again,
            "behind": round(self.behind, 3),
            "median": round(ordered[len(ordered) // 2], 4) if ordered else None,
            "p99": round(ordered[len(ordered) * 99 // 100], 4) if ordered else None,
            "longest": round(ordered[-1], 3) if ordered else None,
        }


async def load(addresses: list[str], port: int, rate: float) -> dict[str, Any]:
    ended = asyncio.Event()
    made = Load(addresses, port, rate)
    running = asyncio.create_task(made.run(ended))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    ended.set()
    await running
    return made.told()


async def first(address: str, port: int) -> str:
    """A request every 20 ms, whatever became of those before; the first answer."""
    answered: asyncio.Queue[str] = asyncio.Queue()

    async def one() -> None:
        with contextlib.suppress(OSError, TimeoutError):
            answered.put_nowait((await asyncio.wait_for(by_http(address, port), PATIENCE))[0])

    under_way = set()
    while True:
        under_way.add(asyncio.create_task(one()))
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(answered.get(), 0.02)


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # connections of a slow machine pile up
    with contextlib.suppress(KeyboardInterrupt):
        what, *arguments = sys.argv[1:]
        if what == "ask":
            proto, address, port, count = arguments
            print(json.dumps(asyncio.run(ask(proto, address, int(port), int(count)))))
        elif what == "first":
            print("asking", flush=True)
            print(asyncio.run(first(arguments[0], int(arguments[1]))), flush=True)
        else:
            addresses, port, rate = arguments
            print(json.dumps(asyncio.run(load(addresses.split(","), int(port), float(rate)))), flush=True)
