"""Netlink requests against a kernel whose every datagram is written here: what cannot be provoked on a real one."""

import errno
import socket
import struct
from collections import deque
from collections.abc import Callable

import pytest

from ipvs_agent.kernel import netlink
from ipvs_agent.kernel.attributes import MalformedMessageError, Reader, attribute, walk
from ipvs_agent.kernel.netlink import F_DUMP, F_DUMP_INTERRUPTED, UNKNOWN, NetlinkError, Request, RequestSocket

KIND = 20
DATA, ERROR, DONE = 40, 2, 3


def message(kind: int, sequence: int, body: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


def error(sequence: int, code: int) -> bytes:
    return message(ERROR, sequence, struct.pack("=i", -code) + bytes(16), 0x100)


def done(sequence: int, code: int = 0) -> bytes:
    return message(DONE, sequence, struct.pack("=i", -code))


class Kernel:
    """Answers every send with what ``answer`` makes of the sequence numbers in it: datagrams, or errors to raise."""

    def __init__(self, answer: "Callable[[list[int]], list[bytes | int]]") -> None:
        self.answer = answer
        self.sent: list[list[tuple[int, int, int]]] = []
        self.queue: deque[bytes | int] = deque()

    def send(self, datagram: bytes) -> int:
        found, at = [], 0
        while at < len(datagram):
            length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", datagram, at)
            found.append((kind, flags, sequence))
            at += (length + 3) & ~3
        self.sent.append(found)
        self.queue += self.answer([sequence for _, _, sequence in found])
        return len(datagram)

    def receive(self) -> list[bytes]:
        given = self.queue.popleft() if self.queue else b""
        if isinstance(given, int):
            raise OSError(given, "from the kernel")
        return [given] if given else []

    def close(self) -> None:
        self.queue.clear()


class Scripted(RequestSocket):
    def __init__(self, answer: "Callable[[list[int]], list[bytes | int]]") -> None:
        self.kernel = Kernel(answer)
        self.opened = 0
        super().__init__(0, timeout=0.5)

    def _open(self) -> socket.socket:
        self.opened += 1
        return self.kernel  # type: ignore[return-value]

    def _receive(self, seconds: float) -> list[bytes]:
        return self.kernel.receive()


def requests(count: int, size: int = 0) -> list[Request]:
    return [Request(KIND, 0, bytes(size)) for _ in range(count)]


def test_only_the_last_request_of_a_send_asks_for_an_answer() -> None:
    asked = Scripted(lambda sequences: [error(sequences[-1], 0)])
    assert [reply.error for reply in asked.exchange(requests(3))] == [0, 0, 0]
    assert [[flags for _, flags, _ in sent] for sent in asked.kernel.sent] == [[1, 1, 5]]


def test_a_send_is_at_most_16_kilobytes() -> None:
    asked = Scripted(lambda sequences: [error(sequences[-1], 0)])
    assert len(asked.exchange(requests(100, size=1000))) == 100
    assert [len(sent) for sent in asked.kernel.sent] == [16] * 6 + [4]
    assert [len(replies) for replies in asked.sends(requests(2, size=20_000))] == [1, 1]


def test_errors_are_matched_by_their_sequence_number() -> None:
    asked = Scripted(
        lambda s: [error(s[1], errno.EEXIST) + error(s[3], errno.ENOENT), error(s[-1], 0)]
    )  # fmt: skip
    assert [reply.error for reply in asked.exchange(requests(5))] == [0, errno.EEXIST, 0, errno.ENOENT, 0]


def test_a_last_request_that_fails_is_a_fence_too() -> None:
    asked = Scripted(lambda sequences: [error(sequences[-1], errno.EINVAL)])
    assert [reply.error for reply in asked.exchange(requests(2))] == [0, errno.EINVAL]


def test_after_lost_errors_only_what_was_answered_is_known() -> None:
    lossy = Scripted(lambda s: [errno.ENOBUFS, error(s[0], errno.EEXIST)])
    assert [reply.error for reply in lossy.exchange(requests(3))] == [errno.EEXIST, UNKNOWN, UNKNOWN]
    assert "lost" in lossy.exchange(requests(3))[2].words


def test_a_fence_behind_lost_errors_vouches_for_itself_only() -> None:
    lossy = Scripted(lambda s: [errno.ENOBUFS, error(s[-1], 0)])
    assert [reply.error for reply in lossy.exchange(requests(3))] == [UNKNOWN, UNKNOWN, 0]


def test_without_a_fence_nothing_is_known_and_late_answers_harm_nobody() -> None:
    answers: deque[Callable[[list[int]], list[bytes | int]]] = deque(
        [lambda s: [], lambda s: [error(s[0] - 1, errno.EPERM), error(s[-1], 0)]]
    )
    silent = Scripted(lambda s: answers.popleft()(s))
    assert [reply.error for reply in silent.exchange(requests(1))] == [UNKNOWN]
    assert [reply.error for reply in silent.exchange(requests(1))] == [0]


def test_a_late_answer_is_not_taken_for_that_of_a_later_request() -> None:
    answers: deque[Callable[[list[int]], list[bytes | int]]] = deque(
        [lambda s: [], lambda s: [error(s[0] - 1, errno.EPERM), message(DATA, s[0], b"mine")]]
    )
    asked = Scripted(lambda s: answers.popleft()(s))
    asked.exchange(requests(1))
    (reply,) = asked.ask(requests(1))
    assert (reply.error, list(reply.bodies)) == (0, [b"mine"])


def test_the_kernels_own_words_are_told() -> None:
    words = struct.pack("=i", -errno.EINVAL) + bytes(16) + attribute(1, b"no such thing\0")
    asked = Scripted(lambda s: [message(ERROR, s[0], words, 0x300)])
    (reply,) = asked.exchange(requests(1))
    assert reply.words == "Invalid argument (no such thing)"


def test_a_slow_send_is_followed_by_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(netlink.time, "monotonic", lambda: next(clock))  # every send takes a second
    asked = Scripted(lambda sequences: [error(sequences[-1], 0)])
    asked.exchange(requests(100, size=984))
    assert [len(sent) for sent in asked.kernel.sent] == [16] + [1] * 84


def test_sends_grow_again_when_they_are_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0] + [1.0] * 100)  # only the first takes a second
    monkeypatch.setattr(netlink.time, "monotonic", lambda: next(clock))
    asked = Scripted(lambda sequences: [error(sequences[-1], 0)])
    asked.exchange(requests(100, size=984))
    sizes = [len(sent) for sent in asked.kernel.sent]
    assert sizes[:2] == [16, 1]
    assert max(sizes[2:]) == 16


def test_requests_of_others_may_come_between_two_sends() -> None:
    asked = Scripted(lambda s: [error(s[-1], 0)] if len(s) > 1 else [message(DATA, s[0], b"here")])
    sends = asked.sends(requests(32, size=1000))
    assert len(next(sends)) == 16
    assert asked.ask(requests(1))[0].bodies == [b"here"]
    assert [reply.error for reply in next(sends)] == [0] * 16


def test_a_dump_and_a_request_in_one_send_are_answered_each() -> None:
    asked = Scripted(
        lambda s: [message(DATA, s[0], b"a") + message(DATA, s[0], b"b"), message(DATA, s[1], b"one"), done(s[0])]
    )
    dump, single = asked.ask([Request(KIND, F_DUMP, b""), Request(KIND, 0, b"")])
    assert (list(dump.bodies), list(single.bodies)) == ([b"a", b"b"], [b"one"])


def test_an_interrupted_dump_is_taken_again() -> None:
    flags = deque([F_DUMP_INTERRUPTED, F_DUMP_INTERRUPTED, 0])
    asked = Scripted(lambda s: [message(DATA, s[0], b"row", flags.popleft()), done(s[0])])
    assert list(asked.dump(KIND, b"")) == [b"row"]
    assert len(asked.kernel.sent) == 3


def test_a_dump_that_is_always_interrupted_is_given_up_in_words() -> None:
    asked = Scripted(lambda s: [message(DATA, s[0], b"row", F_DUMP_INTERRUPTED), done(s[0])])
    with pytest.raises(NetlinkError, match="kept changing"):
        asked.dump(KIND, b"")
    assert len(asked.kernel.sent) == 5


def test_answers_that_never_fit_are_given_up_in_words() -> None:
    asked = Scripted(lambda s: [errno.ENOBUFS])
    with pytest.raises(NetlinkError, match="receive buffer"):
        asked.dump(KIND, b"")
    assert asked.opened == 6


def test_a_dump_whose_answers_were_lost_is_taken_again_on_a_new_socket() -> None:
    answers: deque[list[bytes | int]] = deque([[errno.ENOBUFS], []])
    asked = Scripted(lambda s: answers.popleft() or [message(DATA, s[0], b"row"), done(s[0])])
    assert list(asked.dump(KIND, b"")) == [b"row"]
    assert asked.opened == 2


def test_a_kernel_that_does_not_answer_is_an_error_and_the_socket_is_new_afterwards() -> None:
    asked = Scripted(lambda s: [message(DATA, s[0], b"row")] if len(asked.kernel.sent) == 1 else [done(s[0])])
    with pytest.raises(NetlinkError, match=r"did not answer in 0\.5 s"):
        asked.dump(KIND, b"")
    assert asked.opened == 2
    assert list(asked.dump(KIND, b"")) == []


@pytest.mark.parametrize("refusal", [done, error])
def test_a_dump_that_the_kernel_refuses_is_an_error(refusal: Callable[[int, int], bytes]) -> None:
    asked = Scripted(lambda s: [refusal(s[0], errno.EOPNOTSUPP)])
    with pytest.raises(NetlinkError) as raised:
        asked.dump(KIND, b"")
    assert raised.value.errno == errno.EOPNOTSUPP


def test_a_cut_off_message_is_an_error() -> None:
    asked = Scripted(lambda s: [message(DATA, s[0], b"row and more")[:20]])
    with pytest.raises(NetlinkError, match="28 bytes where 20"):
        asked.dump(KIND, b"")


def test_a_reader_never_takes_one_shape_for_another() -> None:
    reader = Reader([((1,), "I"), ((2, 1), "H"), ((3,), "s")])
    number, short = struct.pack("=I", 7), struct.pack("=H", 9)
    plain = attribute(1, number) + attribute(2, attribute(1, short)) + attribute(3, b"abc")
    turned = attribute(3, b"abc") + attribute(2, attribute(1, short)) + attribute(1, number)
    lacking = attribute(1, number) + attribute(2, attribute(5, short)) + attribute(3, b"abc")
    assert len({len(plain), len(turned), len(lacking)}) == 1
    for _ in range(2):
        assert reader.read(plain) == (7, 9, b"abc")
        assert reader.read(turned) == (7, 9, b"abc")
        assert reader.read(lacking) == (7, None, b"abc")


def test_a_field_that_the_first_message_lacked_is_found_in_a_later_one_of_the_same_length() -> None:
    reader = Reader([((1,), "I"), ((3,), "I")])
    number = struct.pack("=I", 7)
    assert reader.read(attribute(1, number) + attribute(5, number)) == (7, None)
    assert reader.read(attribute(1, number) + attribute(3, number)) == (7, 7)


def test_many_messages_of_changing_shapes_are_read_like_single_ones() -> None:
    reader = Reader([((1,), "I"), ((3,), "H")])
    number, short = struct.pack("=I", 7), struct.pack("=H", 9)
    shapes = [
        attribute(1, number) + attribute(3, short),
        attribute(3, short) + attribute(1, number),
        attribute(1, number) + attribute(3, short) + attribute(9, b""),
    ]
    for messages in (shapes[:1] * 40, shapes[:2] * 20, shapes * 15, [shapes[1]] * 20 + [shapes[0]] * 20):
        assert list(reader.read_all(messages)) == [(7, 9)] * len(messages)
    assert list(reader.read_all([])) == []


def test_a_value_of_another_length_is_an_error() -> None:
    with pytest.raises(MalformedMessageError, match="8 bytes"):
        Reader([((1,), "I"), ((2,), "I")]).read(attribute(1, bytes(8)))
    with pytest.raises(MalformedMessageError, match="claims 3 bytes"):
        list(walk(struct.pack("=HH", 3, 1), frozenset()))
