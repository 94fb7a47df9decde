"""The ``nft`` program, and the one question that is cheaper to ask the kernel itself."""

import errno
import os
import struct
import subprocess

from ipvs_agent.kernel.attributes import walk
from ipvs_agent.kernel.netlink import Request, RequestSocket
from ipvs_agent.nft.errors import OLDEST, summary
from ipvs_agent.rows import NFT_TABLE

TIMEOUT = 60.0
"""Seconds until an ``nft`` that does not end is killed; its transaction may have happened."""

_NETLINK_NETFILTER = 12
_GETGEN, _GENERATION = 10 << 8 | 16, 1  # NFNL_SUBSYS_NFTABLES, NFTA_GEN_ID (linux/netfilter/nf_tables.h)
_NFGENMSG = struct.pack("=BBH", 0, 0, 0)


class NftError(Exception):
    """nftables cannot be used on this host; the text says why and what to do."""


class NftTimeoutError(NftError):
    """``nft`` did not end in time."""


def run(*arguments: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    """``nft`` with ``text`` on its standard input, in the calling thread's network namespace, to its end."""
    try:
        return subprocess.run(
            ["nft", *arguments],
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
            env=os.environ | {"LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise NftTimeoutError(
            f"nft did not end within {TIMEOUT:g} s and was killed; what it did is looked at again"
        ) from None
    except OSError as failure:
        raise NftError(
            f"the nft program cannot be run ({failure.strerror}): install nftables {OLDEST} or newer"
        ) from None


def list_table(family: str) -> str | None:
    """Our table of a family in JSON, protocols and ports as numbers (names take ten times longer); None: not there."""
    done = run("-j", "-n", "list", "table", family, NFT_TABLE)
    if done.returncode > 0 and not done.stdout:
        if "No such file or directory" in done.stderr or "not supported" in done.stderr:
            return None
        raise NftError(summary(done.stderr, done.returncode))
    return done.stdout


class Generation:
    """The number of the last nftables transaction in one network namespace, anybody's (NFT_MSG_GETGEN; 70 µs)."""

    def __init__(self) -> None:
        self._socket: RequestSocket | None = None

    def close(self) -> None:
        """The next question opens a socket again, in the namespace of the thread that asks."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self) -> int:
        """NftError where the kernel has no nftables or does not let us."""
        try:
            if self._socket is None:
                self._socket = RequestSocket(_NETLINK_NETFILTER, inner_header=len(_NFGENMSG))
            (reply,) = self._socket.ask([Request(_GETGEN, 0, _NFGENMSG)])
        except OSError as failure:
            raise NftError(f"nftables cannot be asked: {failure.strerror or failure}") from None
        if reply.error == errno.EINVAL:  # nfnetlink knows no such subsystem, and could not load it
            raise NftError(
                "this kernel has no nftables: load its module (modprobe nf_tables) or use a kernel that has it"
            )
        if reply.error:
            raise NftError(f"nftables cannot be asked ({reply.words}): the agent needs CAP_NET_ADMIN")
        for (kind,), start, length in walk(reply.bodies[0], frozenset()):
            if kind == _GENERATION:
                return int.from_bytes(reply.bodies[0][start : start + length], "big")
        raise NftError("the kernel's answer about nftables holds no generation")
