"""Frames that arrive in any pieces."""

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from tokenwire_server.gateway.inbound import Inbound, frame_end

from .raw import BINARY, CONT, PING, TEXT, frame


def feed(inbound: Inbound, data: bytes) -> list[Frame]:
    inbound.add(data)
    frames: list[Frame] = []
    while (piece := inbound.next_frame()) is not None:
        frames += inbound.parse(piece)
    return frames


payloads = st.builds(lambda start, size: (start * (size // 4 + 1))[:size], st.binary(min_size=4, max_size=4),
                     st.sampled_from([0, 1, 125, 126, 127, 200, 65_535, 65_536, 70_000]))  # fmt: skip


@given(st.lists(payloads, min_size=1, max_size=5), st.lists(st.integers(1, 70_000), max_size=30), st.booleans())
def test_any_slicing_gives_the_same_frames(messages: list[bytes], cuts: list[int], one_by_one: bool) -> None:
    stream = b"".join(frame(payload, BINARY) for payload in messages)
    inbound = Inbound(deflated=False)
    received: list[bytes] = []
    sizes = iter([1] * min(len(stream), 200) if one_by_one else cuts)
    while stream:
        size = next(sizes, len(stream))
        piece, stream = stream[:size], stream[size:]
        received += [bytes(event.data) for event in feed(inbound, piece)]
    assert received == messages
    assert inbound.is_idle
    assert inbound.close_code is None


def test_nothing_is_kept_between_messages_and_everything_within_one() -> None:
    inbound = Inbound(deflated=False)
    feed(inbound, frame(b"ab", TEXT, fin=False))
    assert not inbound.is_idle, "a message in fragments is under way"
    feed(inbound, frame(b"", PING)[:1])
    assert not inbound.is_idle
    (ping,) = feed(inbound, frame(b"", PING)[1:])
    assert ping.opcode is Opcode.PING
    assert not inbound.is_idle
    feed(inbound, frame(b"c", CONT))
    assert inbound.is_idle


def test_what_can_only_be_an_error_is_not_waited_for() -> None:
    whole = frame(b"x", TEXT)
    assert frame_end(whole + whole[:3]) == len(whole)
    assert frame_end(frame(b"", TEXT, length=2**40)) == len(frame(b"", TEXT, length=2**40))
    unmasked = frame(b"", TEXT, mask=False, length=100)
    assert frame_end(unmasked) == len(unmasked)
    assert frame_end(whole[:1]) == frame_end(whole[:-1]) == 0
