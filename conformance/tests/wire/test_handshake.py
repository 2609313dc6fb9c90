"""The opening handshake: what is asked, what counts as an answer, what deflate was agreed on."""

import pytest
from wsproto.utilities import generate_accept_token

from tokenwire_conformance.wire.handshake import (
    HandshakeError,
    Response,
    ResponseReader,
    check_upgrade,
    deflate_of,
    request_bytes,
)
from tokenwire_conformance.wire.log import LogBuilder, hide, redacted, redacted_command
from tokenwire_conformance.wire.messages import Deflate
from tokenwire_conformance.wire.target import TargetError, parse_target

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the key of RFC 6455, section 1.3
ACCEPT = generate_accept_token(KEY.encode()).decode()


def answer(headers: dict[str, str] | None = None) -> Response:
    lines = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-accept": ACCEPT} | (headers or {})
    return Response(101, tuple((name, value) for name, value in lines.items() if value), b"")


def test_the_accept_token_of_the_rfc() -> None:
    assert ACCEPT == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert check_upgrade(answer(), KEY) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"upgrade": ""},
        {"upgrade": "h2c"},
        {"connection": "close"},
        {"sec-websocket-accept": "x"},
        {"sec-websocket-accept": ""},
    ],
)
def test_an_answer_that_is_no_upgrade(headers: dict[str, str]) -> None:
    assert check_upgrade(
        Response(101, tuple((k, v) for k, v in (dict(answer().headers) | headers).items() if v), b""), KEY
    )


def test_request_headers_can_be_replaced_and_left_out() -> None:
    text = request_bytes("/x?y", "h:1", KEY, (("sec-websocket-version", "7"), ("A", "b")), frozenset({"Upgrade"}))
    head = text.decode().split("\r\n")
    assert head[0] == "GET /x?y HTTP/1.1"
    assert "Host: h:1" in head
    assert "sec-websocket-version: 7" in head
    assert not any(line.startswith(("Upgrade", "Sec-WebSocket-Version")) for line in head)
    assert text.endswith(b"\r\nA: b\r\n\r\n")


def test_a_response_comes_byte_by_byte_and_keeps_what_follows() -> None:
    reader = ResponseReader()
    data = b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nX: 1\r\nX: 2\r\n\r\n"
    for at in range(len(data) - 1):
        assert reader.feed(data[at : at + 1]) is None
    response = reader.feed(data[-1:] + b"\x81\x00")
    assert response is not None
    assert (response.status, response.header("x"), response.header("y"), response.rest) == (
        101,
        "1, 2",
        None,
        b"\x81\x00",
    )


@pytest.mark.parametrize("data", [b"SSH-2.0-x\r\n\r\n", b"", b"HTTP/1.1 101 " + b"x" * 70_000])
def test_what_is_no_response(data: bytes) -> None:
    with pytest.raises(HandshakeError):
        ResponseReader().feed(data)


@pytest.mark.parametrize(
    ("header", "agreed"),
    [
        (None, None),
        ("permessage-deflate", Deflate()),
        ("permessage-deflate; server_no_context_takeover", Deflate(inbound_takeover=False)),
        ("permessage-deflate; client_no_context_takeover", Deflate(outbound_takeover=False)),
        ('permessage-deflate; server_max_window_bits="10"; client_max_window_bits=8', Deflate(10, True, 9, True)),
    ],
)
def test_what_deflate_was_agreed_on(header: str | None, agreed: Deflate | None) -> None:
    assert deflate_of(header) == agreed


@pytest.mark.parametrize(
    "header",
    ["x-webkit-deflate-frame", "permessage-deflate; foo", "permessage-deflate, permessage-deflate",
     "permessage-deflate; server_max_window_bits=16", "permessage-deflate; client_max_window_bits"],
)  # fmt: skip
def test_what_nobody_offered(header: str) -> None:
    with pytest.raises(HandshakeError):
        deflate_of(header)


def test_secrets_do_not_reach_the_log() -> None:
    log = LogBuilder(1, "ws://h/p?session=SECRET&seq=4", 0.0)
    log.add(
        0.5, "sent", "http", b"GET / HTTP/1.1\r\nAuthorization: Bearer SECRET\r\nX-Tokenwire-Session: SECRET\r\n\r\n"
    )
    log.add(0.7, "received", "text", b'{"data":{"session":"SECRET","x":1}}')
    log.add(0.8, "received", "text", b'{"data":{"session":"SECRET')
    built = log.build()
    assert "SECRET" not in built.url + "".join(entry.text for entry in built.entries)
    assert [entry.at_ms for entry in built.entries] == [500, 700, 800]
    assert redacted('{"session":"abc","seq":1}') == '{"session":"…","seq":1}'


@pytest.mark.parametrize(
    "text",
    [
        "GET /p?jwt=SECRET&caps=batch HTTP/1.1",
        "ws://h/p?caps=batch&auth=SECRET",
        "ws://h/p?sig=SECRET#x",
        "ws://h/p?password=SECRET",
        "HTTP/1.1 101 Ok\r\nSet-Cookie: id=SECRET; Path=/\r\nX: y",
        "X-Auth-Token: SECRET",
        "X-Api-Key:SECRET",
        "Proxy-Authorization: Basic SECRET",
        'x{"session":"a\\"SECRET","x":1}',
        '{"session": "SECRET',
        '{"message":"bad: {\\"session\\":\\"SECRET\\"}"}',
    ],
)
def test_secrets_of_every_shape(text: str) -> None:
    assert "SECRET" not in redacted(text)
    assert "SECRET" not in redacted_command(text)


def test_what_is_no_secret_stays() -> None:
    for text in (
        "GET /p?caps=batch,resume&delivery=full&seq=4&attempt=2 HTTP/1.1",
        "Sec-WebSocket-Key: abc=\r\nSec-WebSocket-Accept: def=\r\nHost: h",
        '{"data":{"sessions":"x","tokens":["A"]}}',
        "node client.mjs {url} --tokens {tokens} --tokens '{tokens}' --verbose",
    ):
        assert (redacted(text), redacted_command(text)) == (text, text)


def test_the_users_own_header_values_are_hidden_wherever_they_occur() -> None:
    hide(["Bearer swordfish-1", "b"])
    assert redacted("your token swordfish-1 is bad") == "your token … is bad"


def test_a_command_is_shown_without_its_secrets() -> None:
    shown = redacted_command(
        "API_TOKEN=SECRET node c.mjs {url} --api-key SECRET --password='SEC RET' --tokens {tokens}"
    )
    assert "SEC" not in shown.replace("API_TOKEN", "")
    assert shown.startswith("API_TOKEN=… node c.mjs {url} --api-key …")
    assert shown.endswith("--tokens {tokens}")


def test_the_log_keeps_the_beginning_and_the_end() -> None:
    log = LogBuilder(1, "ws://h", 0.0)
    for number in range(1_000):
        log.add(0.0, "sent", "text", str(number))
    built = log.build()
    assert (built.entries[0].text, built.entries[-1].text) == ("0", "999")
    assert built.omitted + len(built.entries) == 1_000
    assert len(built.entries) == 300


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://h/x", "http://"),
        ("localhost:8080", "no scheme"),
        ("ws://", "no host"),
        ("ws://h:99999/", "port|Port"),
        ("ws://user:secret@h/", "credentials"),
        ("ws://h/a b?token=secret", "character"),
        ("ws://user:secret", "port"),
        ("wsx://u:secret@h/?token=secret", "the scheme wsx://"),
        ("ws:///?token=secret", "no host"),
        ("ws://[::1/", "URL"),
    ],
)
def test_urls_that_cannot_be_used(url: str, says: str) -> None:
    with pytest.raises(TargetError, match=says) as caught:
        parse_target(url)
    assert "secret" not in str(caught.value)


def test_urls() -> None:
    target = parse_target("ws://h:81")
    assert (target.path, target.authority, target.base) == ("/api/v1/ws/token-data", "h:81", "")
    target = parse_target("wss://[::1]/pre/api/v1/ws/token-data?a=1")
    assert (target.host, target.port, target.authority, target.base) == ("::1", 443, "[::1]", "/pre")
    assert target.request_target("b=2") == "/pre/api/v1/ws/token-data?a=1&b=2"
