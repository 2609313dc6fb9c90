"""URLs as people write them."""

import pytest

from tokenwire.url import ENDPOINT, InvalidUrlError, endpoint_url, is_exposed


@pytest.mark.parametrize(
    ("given", "dialled"),
    [
        ("ws://h:8080", f"ws://h:8080{ENDPOINT}"),
        ("wss://h/", f"wss://h{ENDPOINT}"),
        ("https://h", f"wss://h{ENDPOINT}"),
        ("http://[::1]:80", f"ws://[::1]:80{ENDPOINT}"),
        ("ws://h/prefix/x?a=1", "ws://h/prefix/x?a=1"),
        ("ws://h?a=1", f"ws://h{ENDPOINT}?a=1"),
    ],
)
def test_what_can_be_dialled(given: str, dialled: str) -> None:
    assert endpoint_url(given) == dialled


@pytest.mark.parametrize(
    "given",
    ["", "h:8080", "localhost", "ftp://h", "ws://", "ws://h:99999", "ws://h:x", "ws://h/#f", "ws://h /x", "ws://[h"],
)
def test_what_cannot(given: str) -> None:
    with pytest.raises(InvalidUrlError, match="Write it like"):
        endpoint_url(given)


def test_credentials_do_not_belong_in_it() -> None:
    with pytest.raises(InvalidUrlError, match="token=") as caught:
        endpoint_url("ws://user:hunter2@h")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InvalidUrlError) as caught:
        endpoint_url("nonsense://user:hunter2@h?session=abc")
    assert "hunter2" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_who_could_listen() -> None:
    assert is_exposed("ws://example.org/x")
    assert is_exposed("ws://localhost.example.org/x")
    assert is_exposed("ws://127.example.org/x")
    assert not is_exposed("wss://example.org/x")
    assert not is_exposed("ws://127.0.0.1:8080/x")
    assert not is_exposed("ws://[::1]/x")
    assert not is_exposed("ws://localhost/x")
