"""The unix socket by which local tools ask the running agent: one JSON request, one JSON answer."""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

DEFAULT_SOCKET = Path("/run/ipvs-operator/agent.sock")


class Request(msgspec.Struct, frozen=True):
    """``what``: ``status``."""

    what: str


def ask(path: Path, what: str, timeout: float = 10.0) -> bytes | None:
    """The running agent's answer; None where none is running."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            connection.sendall(msgspec.json.encode(Request(what)) + b"\n")
            connection.shutdown(socket.SHUT_WR)
            parts = []
            while part := connection.recv(1 << 16):
                parts.append(part)
        except (FileNotFoundError, ConnectionError):
            return None
    return b"".join(parts) or None


async def serve(path: Path, answer: Callable[[Request], Awaitable[bytes]]) -> asyncio.Server | None:
    """Answer requests on ``path``, for root and the socket's group only; None where the socket cannot be made."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("socket %s: %s; `ipvs-agent status` will read the kernel instead", path, error.strerror)
        return None

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), 5.0)
            writer.write(await answer(msgspec.json.decode(line, type=Request)))
            await writer.drain()
        except (msgspec.DecodeError, OSError, TimeoutError) as error:
            log.warning("a request on %s could not be answered: %s", path, error)
        finally:
            writer.close()

    before = os.umask(0o117)
    try:
        return await asyncio.start_unix_server(respond, str(path), limit=1 << 16)
    finally:
        os.umask(before)
