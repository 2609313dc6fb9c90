"""What the client compresses, and that the window of a server that keeps it survives what passes beside it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from tokenwire.compression import OnlyLargeFactory


def agreed(*parameters: str) -> tuple[PerMessageDeflate, PerMessageDeflate]:
    params: list[tuple[str, str | None]] = [(name, None) for name in parameters]
    keeps = "client_no_context_takeover" not in parameters
    return OnlyLargeFactory().process_response_params(params, []), PerMessageDeflate(not keeps, False, 15, 15)


@pytest.mark.parametrize(("length", "compressed"), [(1, False), (1_024, False), (1_025, True), (100_000, True)])
def test_only_large_messages_are_compressed(length: int, compressed: bool) -> None:
    ours, _ = agreed()
    frame = ours.encode(Frame(Opcode.TEXT, b"x" * length))
    assert frame.rsv1 is compressed
    assert (len(frame.data) == length) is not compressed


@given(st.lists(st.text(max_size=3_000), max_size=6), st.booleans())
def test_a_server_reads_the_mixture(texts: list[str], takeover: bool) -> None:
    ours, theirs = agreed(*([] if takeover else ["client_no_context_takeover"]))
    for text in texts:
        frame = ours.encode(Frame(Opcode.TEXT, text.encode()))
        frame = Frame(frame.opcode, bytes(frame.data), frame.fin, frame.rsv1)
        assert bytes(theirs.decode(frame).data).decode() == text
