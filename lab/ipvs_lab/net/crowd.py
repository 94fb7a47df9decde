"""Connections that are held open while something else happens, with every byte checked.

A crowd is a process on the client's host that holds connections of three kinds (servers.py has the protocol):

    idle       says nothing between two checks; a check asks for the server's name again, which must not change
    streaming  the server sends the pattern all the time, and the client checks it
    download   the client has closed its side (TCP) and checks what still comes, up to the announced length

Its answers travel as JSON lines over a socket pair.
"""

import asyncio
import contextlib
import errno
import json
import socket
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ipvs_lab.net.clients import kind_of
from ipvs_lab.net.process import Child
from ipvs_lab.net.servers import PROTOCOLS, pattern

if TYPE_CHECKING:
    from ipvs_lab.net.hosts import Host

CHUNK = 1000  # bytes a stream or download sends at a time
INTERVAL = 0.1  # seconds between them


@dataclass(frozen=True)
class Report:
    """What became of the connections so far.

    opened     how many were opened (or tried)
    intact     how many are as they should be: open and moving, or downloaded to the last byte
    complete   downloads that have arrived whole
    by_server  intact connections by the server's name
    bytes      checked, of streams and downloads
    broken     one line for each that is not intact: kind, server, what happened
    """

    opened: int
    intact: int
    complete: int
    bytes: int
    by_server: dict[str, int]
    broken: list[str]

    def __str__(self) -> str:
        text = f"{self.intact} of {self.opened} connections intact, {self.complete} downloads complete, "
        text += f"{self.bytes} bytes checked"
        return "\n".join([text, *self.broken[:20]])


class Crowd:
    """Connections from one host to one target, held by a process of their own."""

    def __init__(self, host: "Host", target: str, port: int, proto: str = "tcp", *, timeout: float = 5) -> None:
        """No connections yet: `open` them. `timeout`: seconds within which a server has to answer or to go on."""
        self.ours, theirs = socket.socketpair()
        with theirs:
            keep = [theirs.fileno()]
            holder = Holder(target, port, proto, timeout)
            self.child: Child = host.start(lambda: asyncio.run(holder.obey(theirs)), f"crowd-{port}", keep)
        self.lines = self.ours.makefile("r")
        host.endings.callback(self.close)

    def open(
        self, *, idle: int = 0, streaming: int = 0, downloads: int = 0, size: int = 100_000, source: str = ""
    ) -> Report:
        """Open more connections, one after the other. `size`: bytes of each download, at 10 kB a second."""
        return self._ask(verb="open", idle=idle, streaming=streaming, downloads=downloads, size=size, source=source)

    def check(self) -> Report:
        """Look at every connection: idle ones are asked, streams and unfinished downloads must move on."""
        return self._ask(verb="check")

    def finish(self, timeout: float = 600) -> Report:
        """`check`, wait for downloads to end (so many seconds at most), close everything and end the process."""
        report = self._ask(verb="finish", timeout=timeout)
        self.close()
        self.child.wait(60)
        return report

    def close(self) -> None:
        """Hang up; the process ends, and its connections with it."""
        self.lines.close()
        self.ours.close()

    def _ask(self, **request: Any) -> Report:
        self.ours.sendall(json.dumps(request).encode() + b"\n")
        line = self.lines.readline()
        if not line:
            raise AssertionError(f"{self.child.name} died:\n{self.child.output()}")
        return Report(**json.loads(line))


@dataclass
class Held:
    """One connection as its holder knows it."""

    kind: str
    size: int = 0
    server: str = ""
    bytes: int = 0
    error: str = ""
    complete: bool = False
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None
    progress: asyncio.Event = field(default_factory=asyncio.Event)

    def __str__(self) -> str:
        return f"{self.kind} on {self.server or 'nobody'} after {self.bytes} bytes: {self.error}"


class Holder:
    """The process's side."""

    def __init__(self, target: str, port: int, proto: str, timeout: float) -> None:
        self.target, self.port, self.proto, self.timeout = target, port, proto, timeout
        self.held: list[Held] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def obey(self, control: socket.socket) -> None:
        """Do as the other side says until it is done or gone."""
        reader, writer = await asyncio.open_connection(sock=control)
        while line := await reader.readline():
            request = json.loads(line)
            match request["verb"]:
                case "open":
                    for kind, count in (("idle", "idle"), ("streaming", "streaming"), ("download", "downloads")):
                        for _ in range(request[count]):
                            await self.open(Held(kind, request["size"]), request["source"])
                case "check":
                    await asyncio.gather(*(self.check(one) for one in self.held))
                case "finish":
                    await asyncio.gather(*(self.check(one) for one in self.held))
                    await self.finish(request["timeout"])
            writer.write(json.dumps(asdict(self.report())).encode() + b"\n")
            await writer.drain()
            if request["verb"] == "finish":
                return

    def report(self) -> Report:
        """The state of all."""
        intact = [one for one in self.held if not one.error]
        return Report(
            opened=len(self.held),
            intact=len(intact),
            complete=sum(one.complete for one in self.held),
            bytes=sum(one.bytes for one in self.held),
            by_server=dict(Counter(one.server for one in intact)),
            broken=[str(one) for one in self.held if one.error],
        )

    async def open(self, one: Held, source: str) -> None:
        """Connect, learn who answers, and set it going."""
        self.held.append(one)
        kind, number = PROTOCOLS[self.proto]
        sock = socket.socket(socket.AF_INET6 if ":" in self.target else socket.AF_INET, kind, number)
        sock.setblocking(False)
        try:
            if source:
                sock.bind((source, 0))
            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop.sock_connect(sock, (self.target, self.port)), self.timeout)
            one.reader, one.writer = await asyncio.open_connection(sock=sock)
            one.server = await self.who(one)
        except OSError as error:
            sock.close()
            one.error = kind_of(error)
            return
        if one.kind == "streaming":
            one.writer.write(f"stream {CHUNK} {INTERVAL}\n".encode())
        elif one.kind == "download":
            one.writer.write(f"download {one.size} {CHUNK} {INTERVAL}\n".encode())
            if self.proto == "tcp":
                one.writer.write_eof()  # SCTP has no half-closed state (RFC 9260, section 9)
        if one.kind != "idle":
            self.tasks.append(asyncio.create_task(self.receive(one, one.reader)))

    async def who(self, one: Held) -> str:
        """The name of the server at the other end. OSError if it does not say."""
        assert one.reader is not None
        assert one.writer is not None
        one.writer.write(b"who\n")
        line = await asyncio.wait_for(one.reader.readline(), self.timeout)
        if not line.endswith(b"\n"):
            raise ConnectionResetError(errno.ECONNRESET, "closed")
        return line.split()[0].decode()

    async def receive(self, one: Held, reader: asyncio.StreamReader) -> None:
        """Check what comes, byte by byte, until it ends."""
        try:
            while data := await reader.read(65536):
                if data != pattern(one.bytes, len(data)):
                    one.error = "wrong bytes"
                    return
                one.bytes += len(data)
                one.progress.set()
            one.complete = one.kind == "download" and one.bytes == one.size
            if not one.complete:
                one.error = "closed by the other side"
        except OSError as error:
            one.error = kind_of(error)
        finally:
            one.progress.set()

    async def check(self, one: Held) -> None:
        """An idle connection answers with the same name; a moving one moves."""
        if one.error or one.complete:
            return
        try:
            if one.kind == "idle":
                if (server := await self.who(one)) != one.server:
                    one.error = f"is now served by {server}"
            else:
                one.progress.clear()
                await asyncio.wait_for(one.progress.wait(), self.timeout)
        except OSError as error:
            one.error = one.error or kind_of(error)

    async def finish(self, timeout: float) -> None:
        """Let downloads end; close what is left."""
        downloads = [task for task, one in self._moving() if one.kind == "download"]
        if downloads:
            await asyncio.wait(downloads, timeout=timeout)
        for one in self.held:
            if one.kind == "download" and not one.complete and not one.error:
                one.error = f"not complete after {timeout:g} s"
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for one in self.held:
            if one.writer is not None:
                one.writer.close()
                with contextlib.suppress(OSError):
                    await one.writer.wait_closed()

    def _moving(self) -> list[tuple[asyncio.Task[None], Held]]:
        moving = [one for one in self.held if one.kind != "idle" and one.reader is not None and one.server]
        return list(zip(self.tasks, moving, strict=True))
