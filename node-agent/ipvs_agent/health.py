"""``/healthz`` and ``/readyz`` over HTTP, for a kubelet: 200 and ``ok``, or 503 and why not."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

log = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
"""The agent shares its node's network: a probe names this host, and nobody else need ask."""

REQUEST_SECONDS = 5.0

Check = Callable[[], Awaitable[str]]
"""Gives why not; empty when all is well."""


async def serve_health(port: int, alive: Check, ready: Check) -> asyncio.Server | None:
    """Answer on ``ADDRESS``; None where the port cannot be had, which is told and no reason not to serve."""
    checks = {b"/healthz": alive, b"/livez": alive, b"/readyz": ready}

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_SECONDS)
            method, path, _ = head.split(b" ", 2)
            check = checks.get(path.partition(b"?")[0])
            if check is None or method != b"GET":
                writer.write(_answer("404 Not Found", "known: /healthz, /readyz"))
            else:
                problem = await check()
                writer.write(_answer("503 Service Unavailable", problem) if problem else _answer("200 OK", "ok"))
            await writer.drain()
        writer.close()

    try:
        return await asyncio.start_server(respond, ADDRESS, port, limit=1 << 14)
    except OSError as error:
        log.error("health port %s:%d: %s; choose another with --health-port", ADDRESS, port, error.strerror)
        return None


def _answer(status: str, text: str) -> bytes:
    body = text.encode() + b"\n"
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body
