"""Many datagrams in one call: ``recvmmsg(2)``, which Python's ``socket`` lacks.

A netlink dump of one service's destinations comes as a datagram with all of them and one with its end, so that reading
a table of thousands of services is mostly system calls.
"""

import ctypes
import errno
import os
import socket

SIZE = 32 << 10
"""Bytes of a datagram: the kernel fills those of a dump up to the reader's buffer, this at most."""

_SLOTS = 8


class _Vector(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """``struct msghdr``."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Header(ctypes.Structure):
    """``struct mmsghdr``."""

    _fields_ = (("message", _Message), ("received", ctypes.c_uint))


_recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_recvmmsg.restype = ctypes.c_int


class Datagrams:
    """Room for a few datagrams, used again and again."""

    def __init__(self) -> None:
        self._buffers = [ctypes.create_string_buffer(SIZE) for _ in range(_SLOTS)]
        self._vectors = [_Vector(ctypes.addressof(buffer), SIZE) for buffer in self._buffers]
        messages = [_Message(vectors=ctypes.pointer(vector), vector_count=1) for vector in self._vectors]
        self._headers = (_Header * _SLOTS)(*map(_Header, messages))
        self._at = ctypes.addressof(self._headers)

    def waiting(self, descriptor: int) -> list[bytes]:
        """Datagrams that wait on a socket, a few at a time; empty when there is none. OSError as ``recvmmsg(2)``."""
        while (count := _recvmmsg(descriptor, self._at, _SLOTS, socket.MSG_DONTWAIT, None)) < 0:
            error = ctypes.get_errno()
            if error == errno.EAGAIN:
                return []
            if error != errno.EINTR:
                raise OSError(error, os.strerror(error))
        return [ctypes.string_at(self._buffers[slot], self._headers[slot].received) for slot in range(count)]
