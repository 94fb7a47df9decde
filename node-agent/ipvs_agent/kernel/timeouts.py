"""IPVS's time-outs and what it tells of itself: messages of the family ``IPVS``, to and from values. Pure."""

import struct
from typing import NamedTuple

from ipvs_agent.kernel.attributes import Reader, attribute
from ipvs_agent.kernel.ipvs_codec import header

_SET_CONFIG, _GET_CONFIG, _GET_INFO = 12, 13, 15
_TIMEOUT_KINDS = (4, 5, 6)
"""``IPVS_CMD_ATTR_TIMEOUT_TCP``, ``_TCP_FIN``, ``_UDP``."""

_TIMEOUTS = Reader([((kind,), "I") for kind in _TIMEOUT_KINDS])
_INFO = Reader([((1,), "I"), ((2,), "I")])  # IPVS_INFO_ATTR_VERSION, _CONN_TAB_SIZE


class Timeouts(NamedTuple):
    """Seconds until an idle connection is forgotten, one value for the whole namespace. 0 in a change: leave it."""

    tcp: int
    tcp_fin: int
    udp: int


class Info(NamedTuple):
    """``version``: of IPVS, not of the kernel; ``connection_buckets``: size of the connection hash table."""

    version: str
    connection_buckets: int


def get_timeouts() -> bytes:
    """The request for them."""
    return header(_GET_CONFIG)


def set_timeouts(timeouts: Timeouts) -> bytes:
    """The request to change them."""
    return header(_SET_CONFIG) + b"".join(
        attribute(kind, struct.pack("=I", seconds)) for kind, seconds in zip(_TIMEOUT_KINDS, timeouts, strict=True)
    )


def read_timeouts(message: bytes) -> Timeouts:
    """A protocol that the kernel lacks has 0."""
    return Timeouts(*(seconds or 0 for seconds in _TIMEOUTS.read(message)))


def get_info() -> bytes:
    """The request for it."""
    return header(_GET_INFO)


def read_info(message: bytes) -> Info:
    """What a GET_INFO answer says."""
    version, size = _INFO.read(message)
    return Info(f"{version >> 16 & 255}.{version >> 8 & 255}.{version & 255}", size)
