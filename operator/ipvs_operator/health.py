"""``/healthz`` and ``/readyz`` over HTTP, for a kubelet: 200 and ``ok``, or 503 and why not."""

from collections.abc import Awaitable, Callable

from aiohttp import web

Check = Callable[[], list[str]]
"""Gives what is wrong, in words; empty where all is well."""


class Health:
    """Answers as long as the event loop turns."""

    def __init__(self, alive: Check, ready: Check) -> None:
        app = web.Application()
        for path, check in (("/healthz", alive), ("/livez", alive), ("/readyz", ready)):
            app.router.add_get(path, _responder(check))
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, port: int) -> None:
        """On all addresses of the host. OSError where the port cannot be had."""
        await self._runner.setup()
        await web.TCPSite(self._runner, None, port).start()

    async def stop(self) -> None:
        await self._runner.cleanup()


def _responder(check: Check) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def respond(request: web.Request) -> web.Response:
        problems = check()
        text = "".join(f"{problem}\n" for problem in problems) or "ok\n"
        return web.Response(status=503 if problems else 200, text=text)

    return respond
