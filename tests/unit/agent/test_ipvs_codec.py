"""The IPVS messages, against a small model of what the kernel does with them (``net/netfilter/ipvs/ip_vs_ctl.c``).

The model reads requests and writes answers by itself, from the kernel's headers, so that a mistake in the codec's own
tables does not hide behind the same mistake here.
"""

import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipvs_agent.kernel import ipvs_codec as codec
from ipvs_agent.kernel import timeouts
from ipvs_agent.kernel.attributes import MalformedMessageError
from ipvs_agent.services import (
    AF_INET,
    FLAG_ENGINE,
    FLAG_HASHED,
    Activity,
    Destination,
    Head,
    destination_key,
    destinations_of,
    pack_destination,
    pack_key,
    pack_row,
    unpack_head,
    unpack_key,
)
from ipvs_agent.table import Change


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while data:
        length, kind = struct.unpack_from("=HH", data)
        assert 4 <= length <= len(data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def u16(value: bytes) -> int:
    assert len(value) == 2
    return int(struct.unpack("=H", value)[0])


def u32(value: bytes) -> int:
    assert len(value) == 4
    return int(struct.unpack("=I", value)[0])


@dataclass
class Service:
    """``fields``: SCHED_NAME, FLAGS, TIMEOUT, NETMASK; ``destinations`` by family, address, port; newest first."""

    scheduler: bytes
    flags: int
    timeout: int
    netmask: bytes
    destinations: dict[tuple[int, bytes, bytes], dict[int, bytes]] = field(default_factory=dict)


class Kernel:
    """Services by family, protocol, address and port. ``apply`` gives 0 or the name of the error."""

    def __init__(self) -> None:
        self.services: dict[tuple[int, int, bytes, bytes], Service] = {}

    def apply(self, message: bytes) -> str:
        command, version, reserved = struct.unpack_from("=BBH", message)
        assert (version, reserved) == (1, 0)
        top = attributes(message[4:])
        given = attributes(top[1])
        key = (u16(given[1]), u16(given[2]), given[3], given[4])
        assert len(given[3]) == 16
        assert len(given[4]) == 2
        service = self.services.get(key)
        if command in (1, 2):
            flags, mask = struct.unpack("=II", given[7])
            if command == 1 and service is not None:
                return "EEXIST"
            if command == 2 and service is None:
                return "ESRCH"
            old = service.flags if service is not None else 0
            assert given[6].endswith(b"\0")
            assert len(given[6]) <= 16
            self.services[key] = Service(
                given[6],
                (old & ~mask) | (flags & mask) | FLAG_HASHED,
                u32(given[8]),
                given[9],
                service.destinations if service is not None else {},
            )
            return ""
        if service is None:
            return "ESRCH"
        if command == 3:
            del self.services[key]
            return ""
        wanted = attributes(top[2])
        name = (u16(wanted[11]), wanted[1], wanted[2])
        assert len(wanted[1]) == 16
        if command == 5 and name in service.destinations:
            return "EEXIST"
        if command in (6, 7) and name not in service.destinations:
            return "ENOENT"
        if command == 7:
            del service.destinations[name]
        else:
            assert {3, 4, 5, 6} <= wanted.keys()
            service.destinations[name] = wanted
        return ""

    def tell_service(self, key: tuple[int, int, bytes, bytes]) -> bytes:
        """What GET_SERVICE answers, behind its generic netlink header."""
        family, protocol, address, port = key
        service = self.services[key]
        counters = b"".join(tlv(kind, struct.pack("=I", 7)) for kind in range(1, 11))
        return tlv(
            1,
            tlv(1, struct.pack("=H", family)) + tlv(2, struct.pack("=H", protocol)) + tlv(3, address) + tlv(4, port)
            + tlv(6, service.scheduler) + tlv(7, struct.pack("=II", service.flags, 0xFFFFFFFF))
            + tlv(8, struct.pack("=I", service.timeout)) + tlv(9, service.netmask) + tlv(10, counters),
        )  # fmt: skip

    def tell_destinations(self, key: tuple[int, int, bytes, bytes], **other: bool) -> list[bytes]:
        """What GET_DEST answers."""
        return [
            tell_destination(name, fields, **other)
            for name, fields in reversed(self.services[key].destinations.items())
        ]  # fmt: skip


def tell_destination(
    name: tuple[int, bytes, bytes],
    fields: dict[int, bytes],
    *,
    padded: bool = False,
    reordered: bool = False,
    counters: tuple[int, ...] = (0,) * 8,
) -> bytes:
    """A GET_DEST answer. ``padded``: as on machines that align 64-bit counters; ``reordered``: another order, flags."""
    family, address, port = name
    active, inactive, persistent, *totals = counters
    pad = tlv(11, b"") if padded else b""
    stats64 = b"".join(pad + tlv(kind, struct.pack("=Q", value)) for kind, value in enumerate(totals, 1))
    told = [
        tlv(1, address), tlv(2, port), tlv(3, fields[3]), tlv(4, fields[4]),
        tlv(13, fields.get(13, b"\0")), tlv(14, fields.get(14, bytes(2))), tlv(15, fields.get(15, bytes(2))),
        tlv(5, fields[5]), tlv(6, fields[6]),
        tlv(7, struct.pack("=I", active)), tlv(8, struct.pack("=I", inactive)), tlv(9, struct.pack("=I", persistent)),
        tlv(11, struct.pack("=H", family)), tlv(12, stats64),
    ]  # fmt: skip
    if reordered:
        return tlv(2 | 0x8000, b"".join(reversed(told)) + tlv(99, b"new in some later kernel"))
    return tlv(2, b"".join(told))


ports = st.integers(0, 65535)
numbers = st.integers(0, 2**31 - 1)
keys = st.builds(
    pack_key, st.sampled_from(["TCP", "UDP", "SCTP"]), st.ip_addresses().map(str), ports
)  # fmt: skip
schedulers = st.sampled_from(
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf", "twos"]
)
some_addresses = st.sampled_from([f"10.0.0.{n}" for n in range(6)] + [f"2001:db8::{n}" for n in range(6)])
destinations = st.builds(
    Destination, some_addresses, st.sampled_from([80, 8080]), st.integers(0, 4),
    numbers, numbers, numbers, st.integers(0, 2), ports, st.integers(0, 3),
).map(pack_destination)  # fmt: skip


@st.composite
def rows(draw: st.DrawFn, key: bytes) -> bytes:
    widest = 32 if key[0] == AF_INET else 128
    head = Head(
        draw(schedulers), draw(st.sampled_from([0, 1, 4, 8, 0x18, 0x19])), draw(numbers), draw(st.integers(1, widest))
    )
    return pack_row(head, draw(st.lists(destinations, max_size=8, unique_by=destination_key)))


def kernel_key(key: bytes) -> tuple[int, int, bytes, bytes]:
    return key[0], key[1], key[4:], key[2:4]


def row_in(kernel: Kernel, key: bytes, **other: bool) -> bytes:
    found = codec.read_service(kernel.tell_service(kernel_key(key)))
    assert not isinstance(found, codec.MarkService)
    assert found[0] == key
    told = kernel.tell_destinations(kernel_key(key), **other)
    return found[1] + b"".join(sorted(codec.read_destinations(told)))


def kernel_with(key: bytes, row: bytes) -> Kernel:
    kernel = Kernel()
    assert [kernel.apply(message) for message in codec.messages(Change(key, None, row))] == [""] * (
        1 + len(destinations_of(row))
    )
    return kernel


@pytest.mark.slow
@settings(max_examples=50)
@given(st.data(), keys)
def test_a_service_written_is_the_service_read(data: st.DataObject, key: bytes) -> None:
    row = data.draw(rows(key))
    assert row_in(kernel_with(key, row), key) == row


@pytest.mark.slow
@settings(max_examples=50)
@given(st.data(), keys)
def test_messages_make_any_row_of_any_other_without_an_error(data: st.DataObject, key: bytes) -> None:
    old, new = data.draw(rows(key)), data.draw(rows(key))
    kernel = kernel_with(key, old)
    assert not any(kernel.apply(message) for message in codec.messages(Change(key, old, new)))
    assert row_in(kernel, key) == new


@pytest.mark.slow
@settings(max_examples=50)
@given(st.data(), keys)
def test_only_what_differs_is_sent_and_removals_come_last(data: st.DataObject, key: bytes) -> None:
    old, new = data.draw(rows(key)), data.draw(rows(key))
    before = {destination_key(packed): packed for packed in destinations_of(old)}
    after = {destination_key(packed): packed for packed in destinations_of(new)}
    sent = [(codec.command_of(m), codec.named_destination(m)) for m in codec.messages(Change(key, old, new))]
    head = [(codec.SET_SERVICE, None)] if unpack_head(old) != unpack_head(new) else []
    assert sent[: len(head)] == head
    assert {name for command, name in sent if command == codec.NEW_DEST} == after.keys() - before.keys()
    assert {name for command, name in sent if command == codec.DEL_DEST} == before.keys() - after.keys()
    assert {name for command, name in sent if command == codec.SET_DEST} == {
        name for name in before.keys() & after.keys() if before[name] != after[name]
    }
    assert len(set(sent)) == len(sent)
    order = [codec.SET_SERVICE, codec.NEW_DEST, codec.SET_DEST, codec.DEL_DEST]
    assert [order.index(command) for command, _ in sent] == sorted(order.index(command) for command, _ in sent)


@pytest.mark.slow
@settings(max_examples=50)
@given(st.data(), keys)
def test_equal_rows_need_no_message_and_a_service_goes_with_one(data: st.DataObject, key: bytes) -> None:
    row = data.draw(rows(key))
    assert codec.messages(Change(key, row, row)) == []
    assert codec.messages(Change(key, None, None)) == []
    kernel = kernel_with(key, row)
    assert [kernel.apply(message) for message in codec.messages(Change(key, row, None))] == [""]
    assert kernel.services == {}


@settings(max_examples=50)
@given(st.data(), keys)
def test_requests_for_one_service_name_it(data: st.DataObject, key: bytes) -> None:
    kernel = kernel_with(key, data.draw(rows(key)))
    for message in (codec.get_service(key), codec.get_destinations(key)):
        given = attributes(attributes(message[4:])[1])
        assert (u16(given[1]), u16(given[2]), given[3], given[4]) in kernel.services


@settings(max_examples=50)
@given(st.data(), keys)
def test_destinations_are_read_whatever_order_and_padding_a_kernel_writes(data: st.DataObject, key: bytes) -> None:
    row = data.draw(rows(key))
    kernel = kernel_with(key, row)
    for padded, reordered in ((False, False), (True, False), (False, True), (False, False), (True, True)):
        assert row_in(kernel, key, padded=padded, reordered=reordered) == row


connection_counts = st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3)
totals_64_bit = st.lists(st.integers(0, 2**64 - 1), min_size=5, max_size=5)


@settings(max_examples=50)
@given(destinations, connection_counts, totals_64_bit)
def test_activity_is_read_from_the_64_bit_counters(packed: bytes, connections: list[int], totals: list[int]) -> None:
    key = pack_key("TCP", "192.0.2.1", 80)
    ((name, fields),) = kernel_with(key, pack_row(Head("rr", 0, 0, 32), [packed])).services[
        kernel_key(key)
    ].destinations.items()  # fmt: skip
    for padded, reordered in ((False, False), (True, False), (False, True)):
        told = tell_destination(
            name, fields, padded=padded, reordered=reordered, counters=(*connections, *totals)
        )  # fmt: skip
        assert codec.read_activities([told]) == {destination_key(packed): Activity(*connections, *totals)}


def test_packets_count_both_ways() -> None:
    assert Activity(0, 0, 0, 1, packets_in=3, packets_out=4, bytes_in=0, bytes_out=0).packets == 7


def service_told(*extra: bytes, flags: int = 0, netmask: bytes = b"\xff" * 4, family: int = AF_INET) -> bytes:
    return tlv(
        1,
        tlv(1, struct.pack("=H", family)) + b"".join(extra) + tlv(6, b"wlc\0")
        + tlv(7, struct.pack("=II", flags, 0xFFFFFFFF)) + tlv(8, bytes(4)) + tlv(9, netmask),
    )  # fmt: skip


ADDRESSED = (
    tlv(2, struct.pack("=H", 6)), tlv(3, bytes([192, 0, 2, 1]) + bytes(12)), tlv(4, struct.pack(">H", 80)),
)  # fmt: skip


def test_somebodys_firewall_mark_service_is_told_apart() -> None:
    told = service_told(tlv(5, struct.pack("=I", 77)))
    assert codec.read_service(told) == codec.MarkService(AF_INET, 77, "wlc")


def test_a_persistence_engine_makes_a_head_that_no_wanted_one_equals() -> None:
    plain, engine = (
        codec.read_service(service_told(*ADDRESSED)), codec.read_service(service_told(*ADDRESSED, tlv(11, b"sip\0"))),
    )  # fmt: skip
    assert isinstance(plain, tuple)
    assert isinstance(engine, tuple)
    assert engine[0] == plain[0]
    assert engine[1] != plain[1]
    assert unpack_head(engine[1]).flags == FLAG_ENGINE


@pytest.mark.parametrize(("mask", "length"), [("ffffffff", 32), ("ffffff00", 24), ("00000000", 0), ("ff00ff00", 255)])
def test_ipv4_netmasks_are_told_as_prefix_lengths(mask: str, length: int) -> None:
    key, head = codec.read_service(service_told(*ADDRESSED, netmask=bytes.fromhex(mask)))[:2]
    assert unpack_key(key) == ("TCP", "192.0.2.1", 80)
    assert unpack_head(head).netmask == length


@pytest.mark.parametrize("length", [1, 64, 128])
def test_ipv6_prefix_lengths_are_numbers_for_the_kernel(length: int) -> None:
    key = pack_key("TCP", "2001:db8::1", 80)
    told = kernel_with(key, pack_row(Head("rr", 1, 300, length), [])).services[kernel_key(key)]
    assert told.netmask == struct.pack("=I", length)


def test_the_kernels_own_flag_is_no_difference() -> None:
    assert codec.read_service(service_told(*ADDRESSED, flags=FLAG_HASHED)) == codec.read_service(
        service_told(*ADDRESSED)
    )


def test_names_of_one_padded_length_are_not_mixed_up() -> None:
    for name in ("rr", "wlc", "lc", "wrr", "rr"):
        told = tlv(
            1,
            tlv(1, struct.pack("=H", 2))
            + b"".join(ADDRESSED)
            + tlv(6, name.encode() + b"\0")
            + tlv(7, bytes(8))
            + tlv(8, bytes(4))
            + tlv(9, b"\xff" * 4),
        )
        _, head = codec.read_service(told)[:2]
        assert unpack_head(head).scheduler == name


@pytest.mark.parametrize(
    "told",
    [
        b"",
        service_told(),
        service_told(*ADDRESSED[:2]),
        service_told(*ADDRESSED)[:-4],
        tlv(1, tlv(1, bytes(4))),
        struct.pack("=HH", 3, 1),
        struct.pack("=HH", 300, 1) + bytes(20),
    ],
)
def test_a_service_that_lacks_what_every_service_has_is_an_error_in_words(told: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        codec.read_service(told)


def test_a_destination_of_a_kernel_before_5_4_is_an_error_in_words() -> None:
    told = tlv(2, tlv(1, bytes(16)) + tlv(2, bytes(2)) + b"".join(tlv(kind, bytes(4)) for kind in range(3, 10)))
    with pytest.raises(MalformedMessageError, match=r"Linux 5\.4"):
        codec.read_destinations([told])


@settings(max_examples=50)
@given(st.builds(timeouts.Timeouts, numbers, numbers, numbers))
def test_timeouts_come_back_as_they_went_in(wanted: timeouts.Timeouts) -> None:
    assert timeouts.read_timeouts(timeouts.set_timeouts(wanted)[4:]) == wanted


def test_a_kernel_without_tcp_and_udp_has_no_timeouts() -> None:
    assert timeouts.read_timeouts(b"") == timeouts.Timeouts(0, 0, 0)


def test_information_is_told_as_people_write_it() -> None:
    told = tlv(1, struct.pack("=I", 0x010201)) + tlv(2, struct.pack("=I", 4096))
    assert timeouts.read_info(told) == timeouts.Info("1.2.1", 4096)
