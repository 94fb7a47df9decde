"""The client of a host's door. Runs as a plain file, behind the site's prefix: `python -I -S remote.py ADDRESS PORT`
with the request, as JSON, in the environment's IPVS_LAB_REQUEST; exits as the command on the host did."""

import contextlib
import io
import json
import os
import shutil
import socket
import struct
import sys
import termios
import threading
import tty
from collections.abc import Iterator

HEAD = struct.Struct("!BI")  # kind and length of a frame; the same in node_init.py
INPUT, OUTPUT, ERRORS, STATUS = range(4)
UNREACHABLE = 125


def feed(connection: socket.socket) -> None:
    """Our input, to its end, which is an empty frame."""
    with contextlib.suppress(OSError):
        while data := os.read(0, 65536):
            connection.sendall(HEAD.pack(INPUT, len(data)) + data)
        connection.sendall(HEAD.pack(INPUT, 0))


def converse(connection: socket.socket, request: dict[str, object]) -> int:
    """Ask, and pass on what comes; the exit status that comes at the end."""
    with connection.makefile("rb") as incoming:
        for kind, data in frames(connection, incoming, request):
            if kind == STATUS:
                return data[0]
            view = memoryview(data)
            while view:
                view = view[os.write(1 if kind == OUTPUT else 2, view) :]
    print("ipvs-lab: the host has gone", file=sys.stderr)
    return UNREACHABLE


def frames(
    connection: socket.socket, incoming: io.BufferedReader, request: dict[str, object]
) -> Iterator[tuple[int, bytes]]:
    """What the host answers, as kind and data. A host that dies, or that shuts the door in our face, may reset the
    connection, since it leaves our input unread (RFC 1122, 4.2.2.13): to us that is no more than the end."""
    with contextlib.suppress(ConnectionError):
        connection.sendall(json.dumps(request).encode() + b"\n")
        threading.Thread(target=feed, args=(connection,), daemon=True).start()
        while len(head := incoming.read(HEAD.size)) == HEAD.size:
            kind, length = HEAD.unpack(head)
            data = incoming.read(length)
            if len(data) < length:
                return
            yield kind, data


def main() -> int:
    request = json.loads(os.environ["IPVS_LAB_REQUEST"])
    try:
        connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
    except OSError as error:
        print(f"ipvs-lab: the host does not answer: {error}", file=sys.stderr)
        return UNREACHABLE
    connection.settimeout(None)
    terminal = "argv" in request and os.isatty(0) and os.isatty(1)
    if terminal:
        size = shutil.get_terminal_size()
        request["terminal"] = [size.lines, size.columns]
    before = termios.tcgetattr(0) if terminal else None
    try:
        if terminal:
            tty.setraw(0)
        return converse(connection, request)
    finally:
        if before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, before)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # the thread that waits for input would hold us up
