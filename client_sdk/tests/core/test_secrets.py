"""What is printed holds no secrets."""

import pytest

from tokenwire.actions import Connect
from tokenwire.checkpoint import Checkpoint
from tokenwire.config import ClientConfig

SECRET = "s3cr3t"
URL = f"wss://me:{SECRET}@example.org/api?key={SECRET}"
HEADERS = (("Authorization", f"Bearer {SECRET}"), ("X-Tokenwire-Session", SECRET))


@pytest.mark.parametrize(
    "thing",
    [
        Checkpoint(session=SECRET, position=7),
        ClientConfig(url=URL, headers=HEADERS),
        Connect(URL, HEADERS, 5_000, deflate=True),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_no_secret_is_printed(thing: Checkpoint | ClientConfig | Connect) -> None:
    for text in (repr(thing), str(thing), f"{[thing]}", repr(list(thing.__rich_repr__()))):
        assert SECRET not in text
        assert "****" in text
    assert repr(thing).startswith(f"{type(thing).__name__}(")


def test_what_is_no_secret_is_printed() -> None:
    assert "position=7" in repr(Checkpoint(position=7))
    assert "session=None" in repr(Checkpoint(position=7))
    assert "url='wss://example.org/api'" in repr(ClientConfig(url="wss://example.org/api"))
    assert "X-Tokenwire-Session" in repr(Connect(URL, HEADERS, 5_000, deflate=True))


def test_a_saved_checkpoint_keeps_its_secret() -> None:
    checkpoint = Checkpoint(session=SECRET)
    assert Checkpoint.from_json(checkpoint.to_json()) == checkpoint
