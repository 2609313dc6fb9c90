"""Binary messages of a zstd socket (I-64)."""

import base64
import json
import subprocess
import sys
import tracemalloc
from random import Random
from typing import Any, Final

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire.zstd import ZstdDecoder, ZstdError
from tokenwire_schemas.limits import MAX_MESSAGE_BYTES

from .peer import WALL, Peer, update

MAGIC: Final = b"\x28\xb5\x2f\xfd"


class Encoder:
    """The server's side, from the page."""

    def __init__(self) -> None:
        self.frame: Any = None

    def encode(self, text: str, *, begin: bool = True, end: bool = False, **settings: Any) -> bytes:
        data = text.encode()
        cut = data.index(b'"data":') + len(b'"data":')
        head, body = data[:cut], data[cut:]
        if begin:
            self.frame = zstandard.ZstdCompressor(**settings).compressobj()
        how = zstandard.COMPRESSOBJ_FLUSH_FINISH if end else zstandard.COMPRESSOBJ_FLUSH_BLOCK
        return binary(self.frame.compress(body) + self.frame.flush(how), len(body), head, flag=0 if begin else 1)


def binary(packed: bytes, length: int, head: bytes = b'{"data":', *, flag: int = 0) -> bytes:
    """A binary message whose body is ``packed`` and states to be of ``length``."""
    return bytes([flag]) + len(head).to_bytes(2, "big") + length.to_bytes(4, "big") + head + packed


def text(number: int, padding: str = "x") -> str:
    updates = [update(f"a-{padding}{index}", str(index + number), number) for index in range(40)]
    return json.dumps({"type": "token_batch", "sequence": number, "timestamp": WALL, "data": {"updates": updates}})


def test_streams() -> None:
    encoder, decoder = Encoder(), ZstdDecoder()
    for number in range(1, 30):
        message = text(number)
        wire = encoder.encode(message, begin=number % 10 == 1, end=number % 20 == 10)
        assert decoder.decode(wire).decode() == message


def test_the_window_reaches_back_over_several_messages() -> None:
    encoder, decoder = Encoder(), ZstdDecoder()
    pieces = [base64.b64encode(bytes(Random(number).randbytes(3_000))).decode() for number in range(3)]
    sizes = []
    for piece in pieces * 2:
        wire = encoder.encode(json.dumps({"data": {"x": piece}}), begin=not sizes)
        sizes.append(len(wire))
        assert json.loads(decoder.decode(wire)) == {"data": {"x": piece}}
    assert min(sizes[:3]) > 2_000
    assert max(sizes[3:]) < 100


@settings(max_examples=100, deadline=None)
@given(
    bodies=st.lists(
        st.tuples(st.text(max_size=3_000), st.booleans(), st.booleans(), st.integers(1, 9), st.booleans()),
        min_size=1, max_size=8,
    )
)  # fmt: skip
def test_any_text_and_level(bodies: list[tuple[str, bool, bool, int, bool]]) -> None:
    encoder, decoder = Encoder(), ZstdDecoder()
    ended = True
    for body, begin, end, level, checksum in bodies:
        message = '{"type":"é","data":' + json.dumps({"x": body}) + "}"
        wire = encoder.encode(message, begin=begin or ended, end=end, level=level, write_checksum=checksum)
        ended = end
        assert decoder.decode(wire).decode() == message


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_and_nothing_else(data: st.DataObject) -> None:
    encoder, decoder = Encoder(), ZstdDecoder()
    wires = [bytearray(encoder.encode(text(number), begin=number == 1)) for number in (1, 2)]
    if data.draw(st.booleans()):
        decoder.decode(bytes(wires.pop(0)))
    wire = wires[0]
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(wire)))
    codes = []
    try:
        assert len(decoder.decode(bytes(wire[:cut]))) <= MAX_MESSAGE_BYTES
    except ZstdError as error:
        codes.append(error.close_code)
    assert set(codes) <= {1002, 1009}


@settings(max_examples=300, deadline=None)
@given(flag=st.integers(0, 2), length=st.integers(0, 2**32 - 1), junk=st.binary(max_size=200), magic=st.booleans())
def test_junk_is_an_error_and_nothing_else(flag: int, length: int, junk: bytes, magic: bool) -> None:
    decoder = ZstdDecoder()
    if flag == 1:
        decoder.decode(Encoder().encode(text(1)))
    codes = []
    try:
        decoder.decode(binary((MAGIC if magic else b"") + junk, length, flag=flag))
    except ZstdError as error:
        codes.append(error.close_code)
    assert set(codes) <= {1002, 1009}


def code(wire: bytes, decoder: ZstdDecoder | None = None) -> int:
    with pytest.raises(ZstdError) as caught:
        (decoder or ZstdDecoder()).decode(wire)
    return caught.value.close_code


def blocks(*contents: tuple[int, bytes], last: bool = False) -> bytes:
    """Blocks of a Zstandard frame: (0, content) raw, (1, byte * count) run-length, (3, …) reserved."""
    made = b""
    for index, (kind, content) in enumerate(contents):
        header = (len(content) << 3) | (kind << 1) | (last and index == len(contents) - 1)
        made += header.to_bytes(3, "little") + (content[:1] if kind == 1 else content)
    return made


FRAME = MAGIC + b"\x00\x58"  # a window of 2 MiB, no content size, no checksum


def test_refusals() -> None:
    good = Encoder().encode(text(1))
    assert code(b"") == 1002
    assert code(good[:7]) == 1002
    assert code(b"\x02" + good[1:]) == 1002
    assert code(b"\x01" + good[1:]) == 1002  # it continues nothing
    assert code(good + b"x") == 1002
    assert code(good[:-1]) == 1002
    assert code(good[:60]) == 1002  # the head is cut off
    assert code(binary(b"", 0)) == 1002
    assert code(binary(FRAME[:5], 2)) == 1002
    assert code(binary(b"garbage, no frame", 2)) == 1002
    assert code(binary(FRAME + blocks((3, b"{}")), 2)) == 1002
    assert code(binary(FRAME + blocks((0, b"{}"))[:-1], 2)) == 1002
    assert code(binary(FRAME + blocks((0, b"{}"), last=True) + blocks((0, b"{}")), 4)) == 1002
    assert code(binary(MAGIC + b"\x01\x58\x07" + blocks((0, b"{}")), 2)) == 1002  # it names a dictionary
    assert code(binary(FRAME + blocks((1, b" " * 131_073)), 131_073)) == 1002  # a block is at most 128 KiB
    ZstdDecoder().decode(binary(FRAME + blocks((0, b"{"), (0, b""), (1, b"}")), 2))


def test_what_has_ended_or_failed_is_not_continued() -> None:
    encoder, decoder = Encoder(), ZstdDecoder()
    decoder.decode(encoder.encode(text(1), end=True))
    more = binary(blocks((0, b"{}")), 2, flag=1)
    assert code(more, decoder) == 1002
    decoder.decode(encoder.encode(text(2)))
    decoder.decode(more)
    assert code(binary(blocks((0, b"{}")), 3, flag=1), decoder) == 1009
    assert code(more, decoder) == 1002


def test_a_new_stream_knows_nothing_of_the_last_one() -> None:
    encoder, other, decoder = Encoder(), Encoder(), ZstdDecoder()
    decoder.decode(encoder.encode(text(1)))
    following = encoder.encode(text(2), begin=False)
    decoder.decode(other.encode('{"data":{}}'))
    with pytest.raises(ZstdError):
        decoder.decode(following)  # it refers to a window that is not there


def test_the_stated_lengths_are_judged_first() -> None:
    garbage = b"garbage"
    assert code(binary(garbage, MAX_MESSAGE_BYTES - 7)) == 1009
    assert code(binary(garbage, MAX_MESSAGE_BYTES - 8)) == 1002
    assert code(binary(garbage, 2**32 - 1, b"x" * 65_535)) == 1009


def test_the_largest_message() -> None:
    head = b'{"data":'
    for content in (b"0" * (MAX_MESSAGE_BYTES - len(head)), Random(1).randbytes(MAX_MESSAGE_BYTES - len(head))):
        packer = zstandard.ZstdCompressor().compressobj()
        packed = packer.compress(content) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        assert ZstdDecoder().decode(binary(packed, len(content), head)) == head + content


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("stated", [100, MAX_MESSAGE_BYTES - 100])
def test_a_bomb_is_not_inflated(stated: int, begins: bool) -> None:
    packer = zstandard.ZstdCompressor().compressobj()
    decoder = ZstdDecoder()
    if not begins:
        packed = packer.compress(b"{}") + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        decoder.decode(binary(packed, 2))
    bomb = packer.compress(b"0" * 60_000_000) + packer.flush()
    assert len(bomb) < 10_000
    tracemalloc.start()
    try:
        assert code(binary(bomb, stated, flag=0 if begins else 1), decoder) == 1009
        assert tracemalloc.get_traced_memory()[1] < 6_000_000  # the library's pieces, then the whole of them
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in KiB as Linux does")
def test_the_memory_of_the_process_stays_bounded() -> None:
    """Of the library's own memory as well: bombs of 2 GiB, one of them in 16,384 blocks."""
    program = """
import resource
import zstandard
from tokenwire.zstd import ZstdDecoder, ZstdError
packer = zstandard.ZstdCompressor(level=1).compressobj(size=-1)
piece = bytes(1 << 24)
bomb = b"".join(packer.compress(piece) for _ in range(128)) + packer.flush()
runs = b"\\x28\\xb5\\x2f\\xfd\\x00\\x58" + (131072 << 3 | 2).to_bytes(3, "little") + b"0"
runs += runs[6:] * 16383
ZstdDecoder().decode(bytes([0, 0, 1, 0, 0, 0, 0, 0]) + runs[:6] + bytes(3))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for packed in (bomb, runs):
    for length in (10, 1 << 19, (1 << 20) - 1):
        try:
            ZstdDecoder().decode(b"\\0\\0\\1" + length.to_bytes(4, "big") + b"h" + packed)
        except ZstdError as error:
            assert error.close_code == 1009
        else:
            raise SystemExit("decoded")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 * 1_024  # KiB: the window, a piece and its parts


@pytest.mark.parametrize("begin", [False, True])
@pytest.mark.parametrize("length", [100, 300, 70_000])
@pytest.mark.parametrize("more", [-1, 1])
def test_a_length_that_is_not_the_decoded_one(length: int, begin: bool, more: int) -> None:
    encoder, decoder = Encoder(), ZstdDecoder()
    decoder.decode(encoder.encode(text(1)))
    wire = bytearray(encoder.encode('{"data":"' + "ab" * (length // 2) + '"}', begin=begin))
    stated = int.from_bytes(wire[3:7], "big")
    wire[3:7] = (stated + more).to_bytes(4, "big")
    assert code(bytes(wire), decoder) == 1009


def test_a_huge_window_is_refused() -> None:
    largest = MAGIC + bytes([0, (23 - 10) << 3]) + blocks((0, b"{}"))
    assert ZstdDecoder().decode(binary(largest, 2)) == b'{"data":{}'
    assert code(binary(MAGIC + bytes([0, (23 - 10) << 3 | 1]) + blocks((0, b"{}")), 2)) == 1009
    single = MAGIC + b"\xa0" + (8_388_609).to_bytes(4, "little") + blocks((0, b"{}"))
    assert code(binary(single, 2)) == 1009


def test_in_a_session_from_the_first_message_on() -> None:
    peer = Peer(capabilities=("batch", "zstd")).start().open()
    encoder = Encoder()
    hello = {
        "type": "connection",
        "sequence": 1,
        "timestamp": WALL,
        "data": {"status": "connected", "connectionId": "c", "maxSubscriptions": 9, "capabilities": ["batch", "zstd"]},
    }
    peer.raw(encoder.encode(json.dumps(hello)))
    names = [f"a-x{index}" for index in range(40)]
    peer.session.subscribe(names, peer.now)
    peer.act()
    peer.number = 1
    peer.accept(*names)
    peer.raw(encoder.encode(text(3), begin=False))
    peer.raw(encoder.encode(text(4), begin=False))
    assert len(peer.values()) == 80
    peer.cut()
    peer.back()
    peer.open()
    encoder = Encoder()
    peer.raw(encoder.encode(json.dumps(hello)))
    peer.raw(encoder.encode(json.dumps({"type": "zz", "sequence": 2, "timestamp": 1, "data": {}}), begin=False))
    assert peer.session.metrics.unknown_messages == 1
    peer.raw(b"\x07")
    assert [close.code for close in peer.closes] == [1002]


def test_a_bomb_ends_the_socket_with_1009() -> None:
    peer = Peer(capabilities=("zstd",)).start().greet("zstd")
    peer.raw(binary(zstandard.ZstdCompressor().compress(b"0" * 2_000_000), 1_000_000))
    assert [close.code for close in peer.closes] == [1009]
    assert peer.session.state == "RECONNECTING"


def test_not_granted() -> None:
    peer = Peer(capabilities=("zstd", "batch")).start().greet("batch")
    peer.raw(Encoder().encode(text(2)))
    assert peer.session.metrics.invalid_messages == 1
    assert not peer.closes
