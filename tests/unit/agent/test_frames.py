"""ARP and neighbour discovery frames, byte for byte as other people's programs send them."""

import pytest

from ipvs_agent.kernel import frames
from ipvs_agent.kernel.frames import Heard

MAC = "02:00:00:00:01:00"
ADDRESS, ADDRESS6 = "192.0.2.10", "2001:db8:2::10"

# Recorded on a wire: Linux 7.2 with enhanced_dad=0 and ndisc_notify=1, and arping of iputils 20221126.
LINUX_DAD = bytes.fromhex(
    "3333ff00001002000000010086dd6000000000183aff00000000000000000000000000000000ff0200000000000000000001ff000010"
    "87004ccd0000000020010db8000200000000000000000010"
)
LINUX_ADVERTISEMENT = bytes.fromhex(
    "33330000000102000000010086dd6000000000203aff20010db8000200000000000000000010ff020000000000000000000000000001"
    "8800f8092000000020010db80002000000000000000000100201020000000100"
)
ARPING_A = bytes.fromhex("ffffffffffff02000000010008060001080006040002020000000100c000020a020000000100c000020a")
ARPING_U = bytes.fromhex("ffffffffffff02000000010008060001080006040001020000000100c000020affffffffffffc000020a")
ARPING_D = bytes.fromhex("ffffffffffff0200000001000806000108000604000102000000010000000000ffffffffffffc000020a")
ARP_ANSWER = bytes.fromhex("02000000010002000000020008060001080006040002020000000200c000020302000000010000000000")
TARGET_MAC = slice(32, 38)


def test_an_ipv6_probe_is_the_kernels_own_duplicate_address_detection() -> None:
    assert frames.probe(MAC, ADDRESS6) == LINUX_DAD


def test_an_ipv6_announcement_is_the_kernels_own_unsolicited_advertisement() -> None:
    assert frames.announcements(MAC, ADDRESS6) == [LINUX_ADVERTISEMENT]


def test_an_advertisement_of_a_router_says_so_and_its_checksum_holds() -> None:
    (told,) = frames.announcements(MAC, ADDRESS6, router=True)
    assert told[58] == LINUX_ADVERTISEMENT[58] | 0x80
    pseudo_header = told[22:54] + (len(told) - 54).to_bytes(4, "big") + (58).to_bytes(4, "big")
    assert frames.checksum(pseudo_header + told[54:]) == 0


def test_arp_frames_are_those_of_arping_with_an_empty_target_as_rfc_5227_wants() -> None:
    def emptied(frame: bytes) -> bytes:
        return frame[: TARGET_MAC.start] + bytes(6) + frame[TARGET_MAC.stop :]

    assert frames.probe(MAC, ADDRESS) == emptied(ARPING_D)
    assert frames.announcements(MAC, ADDRESS) == [emptied(ARPING_U), ARPING_A]


@pytest.mark.parametrize(
    ("frame", "heard"),
    [
        (ARP_ANSWER, Heard("192.0.2.3", "02:00:00:00:02:00", asking=False)),
        (ARPING_A, Heard(ADDRESS, MAC, asking=False)),
        (ARPING_U, Heard(ADDRESS, MAC, asking=False)),
        (ARPING_D, Heard(ADDRESS, MAC, asking=True)),
        (LINUX_DAD, Heard(ADDRESS6, MAC, asking=True)),
        (LINUX_ADVERTISEMENT, Heard(ADDRESS6, MAC, asking=False)),
        # An advertisement without the option: the frame's source is all that there is.
        (LINUX_ADVERTISEMENT[:78], Heard(ADDRESS6, MAC, asking=False)),
        (ARP_ANSWER + bytes(18), Heard("192.0.2.3", "02:00:00:00:02:00", asking=False)),
    ],
)
def test_what_a_frame_says(frame: bytes, heard: Heard) -> None:
    assert frames.parse(frame) == heard


def changed(frame: bytes, at: int, value: int) -> bytes:
    return frame[:at] + bytes([value]) + frame[at + 1 :]


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        ARP_ANSWER[:30],
        LINUX_ADVERTISEMENT[:70],
        pytest.param(changed(ARP_ANSWER, 18, 8) + bytes(18), id="other address size"),
        pytest.param(changed(ARP_ANSWER, 13, 0), id="not ARP"),
        pytest.param(changed(LINUX_ADVERTISEMENT, 21, 64), id="came through a router"),
        pytest.param(changed(LINUX_ADVERTISEMENT, 20, 17), id="not ICMPv6"),
        pytest.param(changed(LINUX_ADVERTISEMENT, 55, 1), id="unknown code"),
        pytest.param(changed(LINUX_DAD, 22, 0xFE), id="a solicitation by somebody who has an address"),
    ],
)
def test_every_other_frame_says_nothing(frame: bytes) -> None:
    assert frames.parse(frame) is None


def test_only_ethernet_addresses_are_packed() -> None:
    with pytest.raises(ValueError, match="00:00:00:00"):
        frames.pack_mac("00:00:00:00")
