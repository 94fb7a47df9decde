"""What can be said about addresses without a kernel."""

import subprocess
import sys

import pytest

from ipvs_agent.kernel.addresses import AddressEntry, is_ours, marks
from ipvs_agent.rows import ADDRESS_PROTOCOL

V4, V6 = 2, 10


def entry(address: bytes = bytes([192, 0, 2, 10]), prefix_length: int = 32, protocol: int = 0) -> AddressEntry:
    return AddressEntry(2, V4 if len(address) == 4 else V6, address, prefix_length, 0, protocol)


LOOPBACK = entry(bytes([127, 0, 0, 1]), 8)


@pytest.mark.parametrize(
    ("entries", "release", "can"),
    [
        ([LOOPBACK._replace(protocol=1)], "5.14.0-427.el9.x86_64", True),  # brought back to an older kernel
        ([LOOPBACK], "6.1.0", False),
        ([], "5.17.9", False),
        ([], "5.18.0-rc1", True),
        ([], "5.18", True),
        ([], "6.12+deb13-amd64", True),
        ([], "4.19.0", False),
        ([], "unreadable", False),
    ],
)
def test_whether_the_kernel_marks_addresses_is_seen_on_loopback_or_known_by_its_release(
    entries: list[AddressEntry], release: str, can: bool
) -> None:
    assert marks(entries, release) is can


@pytest.mark.parametrize(
    ("address", "on_our_link", "ours"),
    [
        (entry(protocol=ADDRESS_PROTOCOL), False, True),
        (entry(), False, False),
        (entry(), True, True),
        (entry(prefix_length=24, protocol=ADDRESS_PROTOCOL), True, False),
        (entry(b"\x20\x01" + bytes(14), 128), True, True),
        (entry(b"\xfe\x80" + bytes(14), 128), True, False),
        (entry(protocol=16), False, False),
    ],
)
def test_ours_is_what_carries_our_mark_or_sits_on_our_link(
    address: AddressEntry, on_our_link: bool, ours: bool
) -> None:
    assert is_ours(address, on_our_link) is ours


@pytest.mark.slow
def test_reading_the_host_does_not_load_pyroute2() -> None:
    modules = "ipvs_agent.kernel.host, ipvs_agent.kernel.rules, ipvs_agent.kernel.fou"
    program = f"import sys, {modules}; print('pyroute2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
