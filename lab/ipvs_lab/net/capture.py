"""Packets on a host's links, recorded by a packet socket: running the moment it is opened, complete when it is read."""

import ctypes
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ipvs_lab.net.packets import Packet, parse_ethernet, parse_network

if TYPE_CHECKING:
    from ipvs_lab.net.hosts import Host

ETH_P_ALL = 0x0003
SO_ATTACH_FILTER, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 26, 33, 35
SOL_PACKET, PACKET_STATISTICS = 263, 6
PACKET_OUTGOING = 4
LINKTYPE_ETHERNET, LINKTYPE_LINUX_SLL2 = 1, 276
BUFFER = 8 << 20  # bytes; a full buffer loses the newest


class Frame(NamedTuple):
    """One packet as the socket gave it. `time` in seconds of the lab's clock, `kind` as in packet(7)."""

    time: float
    interface: str
    protocol: int
    kind: int
    hardware: int
    address: bytes
    raw: bytes


class Capture:
    """A recording, from its creation to its `close` (or the end of the `with` block).

    A named interface is recorded whole, link header included; interface "" records all links from the network layer
    up. A packet shows up once for each link that it passes.
    """

    def __init__(self, host: "Host", interface: str = "", filter: str = "", snaplen: int = 65535) -> None:  # noqa: A002
        """Recording begins here. `filter` (pcap-filter(7)) needs an interface. CommandFailed for a filter that
        tcpdump does not accept, OSError for an interface that is not there."""
        if filter and not interface:
            raise ValueError("a filter needs a named interface")
        self.host = host
        self.interface = interface
        self.frames: list[Frame] = []
        self.lost = 0
        program = [(0x06, 0, 0, snaplen)]  # BPF: accept that many bytes
        if filter:
            compiled = host.run("tcpdump", "-i", interface, "-s", str(snaplen), "-ddd", filter).stdout
            program = [_instruction(line) for line in compiled.splitlines()[1:]]
        with host.inside():
            kind = socket.SOCK_RAW if interface else socket.SOCK_DGRAM
            self.socket = socket.socket(socket.AF_PACKET, kind, 0 if interface else socket.htons(ETH_P_ALL))
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
        self.socket.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
        )
        if interface:
            # Bound last: until then the socket hears nothing, so nothing gets in before the filter.
            self.socket.bind((interface, ETH_P_ALL))

    def _drain(self) -> None:
        if self.socket.fileno() < 0:
            return
        while True:
            try:
                raw, extra, _, source = self.socket.recvmsg(65600, 64)
            except BlockingIOError:
                break
            except OSError:  # the interface went down or away; what was recorded before stays
                continue
            seconds, nanoseconds = struct.unpack("qq", extra[0][2][:16]) if extra else (0, 0)
            name, protocol, kind, hardware, address = source
            self.frames.append(Frame(seconds + nanoseconds / 1e9, name, protocol, kind, hardware, address, raw))
        _, dropped = struct.unpack("II", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self.lost += dropped

    def packets(self) -> list[Packet]:
        """Everything recorded so far, parsed. AssertionError when the buffer was too small for all of it."""
        self._drain()
        if self.lost:
            raise AssertionError(f"{self.host.name}: the capture on {self.interface or 'all links'} lost {self.lost}")
        return [self._parse(frame) for frame in self.frames]

    def _parse(self, frame: Frame) -> Packet:
        direction = "out" if frame.kind == PACKET_OUTGOING else "in"
        packet = parse_ethernet(frame.raw) if self.interface else parse_network(frame.protocol, frame.raw)
        return packet._replace(time=frame.time, interface=frame.interface, direction=direction)

    def write_pcap(self, path: Path) -> None:
        """Everything recorded so far as a file for tcpdump and wireshark."""
        self._drain()
        linktype = LINKTYPE_ETHERNET if self.interface else LINKTYPE_LINUX_SLL2
        with path.open("wb") as file:
            # The header and records of the classic format with nanoseconds: draft-ietf-opsawg-pcap.
            file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, linktype))
            for frame in self.frames:
                data = frame.raw if self.interface else _cooked(frame) + frame.raw
                seconds, part = divmod(frame.time, 1)
                file.write(struct.pack("<IIII", int(seconds), int(part * 1e9), len(data), len(data)) + data)

    def close(self) -> None:
        """Read what is there and stop."""
        self._drain()
        self.socket.close()

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


def _instruction(line: str) -> tuple[int, int, int, int]:
    """One line of `tcpdump -ddd`."""
    code, true, false, operand = (int(word) for word in line.split())
    return code, true, false, operand


def _cooked(frame: Frame) -> bytes:
    """The header of LINKTYPE_LINUX_SLL2; the interface's number is the one in its name."""
    digits = "".join(filter(str.isdigit, frame.interface))
    address = frame.address[:8]
    return struct.pack(
        ">HHIHBB8s", frame.protocol, 0, int(digits or 0), frame.hardware, frame.kind, len(address), address
    )
