"""Telling what takes long: one line that is kept up to date on a terminal, a line every ten seconds elsewhere."""

import contextlib
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ipvs_lab.machine import LabError

QUIET_INTERVAL = 10.0  # seconds between lines where output is no terminal


class Progress:
    """The progress of one step, on standard error."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.started = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.told = self.started
        self._write(f"{what} ...")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\033[K{text}" if self.terminal else f"{text}\n")
        sys.stderr.flush()

    def elapsed(self) -> str:
        """Minutes and seconds since the step began."""
        return "{}:{:02}".format(*divmod(int(time.monotonic() - self.started), 60))

    def update(self, detail: str) -> None:
        """Say how far it is, unless that was said just now."""
        now = time.monotonic()
        if now - self.told >= (0.2 if self.terminal else QUIET_INTERVAL):
            self.told = now
            self._write(f"{self.what}: {detail}{', ' if detail else ''}{self.elapsed()}")

    def done(self, result: str = "done") -> None:
        """Say that the step is over."""
        self._write(f"{self.what}: {result}, {self.elapsed()}")
        if self.terminal:
            sys.stderr.write("\n")


@contextlib.contextmanager
def step(what: str) -> Iterator[Progress]:
    """A step that is done when the block is left."""
    progress = Progress(what)
    try:
        yield progress
    except BaseException:
        progress.done("failed")
        raise
    progress.done()


def run_with_progress(
    command: list[str],
    what: str,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    detail: Callable[[str], str] = lambda line: "",
    look: Callable[[], str] = lambda: "",
) -> str:
    """Run a command and show progress: `detail` makes it from a line of the output, `look` without one, twice a
    second. Its output, or LabError with the end of it."""
    lines: deque[str] = deque(maxlen=5000)
    shown = ""
    with step(what) as progress:
        running = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert running.stdout is not None
        with running:
            for line in _lines(running):
                if line is not None:
                    lines.append(line)
                shown = (detail(line) if line is not None else look()) or shown
                progress.update(shown)
        if running.returncode:
            tail = "\n".join(list(lines)[-15:])
            raise LabError(f"{what}: `{' '.join(command)}` ended with status {running.returncode}:\n{tail}")
    return "\n".join(lines)


def _lines(running: "subprocess.Popen[bytes]") -> Iterator[str | None]:
    """Lines as they come, and None in half a second without one."""
    import selectors

    assert running.stdout is not None
    descriptor = running.stdout.fileno()
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if not selector.select(0.5):
                yield None
                continue
            data = running.stdout.read1(65536)  # type: ignore[attr-defined]
            *whole, rest = (rest + data).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
            if not data:
                if rest:
                    yield rest.decode(errors="replace")
                return
