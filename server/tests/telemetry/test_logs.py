"""Readable lines, JSON lines, and no secret in either."""

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Literal

import pytest

from tokenwire_server.telemetry.logs import configure_logging, get_log, redact

SECRET = "s3cr3t-Va1ue_42"
log = get_log("tokenwire_server.test")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("uvicorn.error").filters.clear()


def lines(log_format: Literal["text", "json"] = "text", level: str = "info", access_log: bool = False) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, log_format, access_log=access_log, stream=stream)
    return stream


def test_a_text_line() -> None:
    out = lines()
    log.info("connection opened", id="0b1d", peer="127.0.0.1:5000", tokens=3, note="two words")
    pattern = (
        r'\d\d:\d\d:\d\d\.\d{3} INFO  connection opened id=0b1d peer=127\.0\.0\.1:5000 tokens=3 note="two words"\n'
    )
    assert re.fullmatch(pattern, out.getvalue())


def test_a_json_line() -> None:
    out = lines("json")
    log.warning("source gap", source="binance", missing=7, ratio=0.5, level="x", detail=None)
    row = json.loads(out.getvalue())
    assert isinstance(row.pop("time"), float)
    assert row == {
        "level": "warning",
        "logger": "tokenwire_server.test",
        "event": "source gap",
        "source": "binance",
        "missing": 7,
        "ratio": 0.5,
        "field_level": "x",
        "detail": None,
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_peer_can_not_write_lines_of_its_own(log_format: Literal["text", "json"]) -> None:
    out = lines(log_format)
    log.info("bad\ninput %s \x1b[2J", name='x" level=ERROR\r\n12:00:00.000 ERROR forged', odd="\ud800\u2028")
    text = out.getvalue()
    assert text.count("\n") == 1
    assert not {"\r", "\x1b", "\u2028"} & set(text)
    text.encode()


def test_a_field_is_bounded() -> None:
    out = lines()
    log.info("long", value="x" * 1_000_000)
    assert len(out.getvalue()) < 3_000


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_exception_keeps_its_traceback(log_format: Literal["text", "json"]) -> None:
    out = lines(log_format)
    try:
        raise ValueError(f"GET /x?token={SECRET}")
    except ValueError as error:
        log.error("it failed", exc_info=error, id=1)
    assert "Traceback" in out.getvalue()
    assert "ValueError: GET /x?token=****" in out.getvalue()


def test_the_level_is_kept() -> None:
    out = lines(level="warning")
    log.info("quiet")
    log.debug("quieter")
    assert not log.enabled(logging.INFO)
    assert log.enabled(logging.WARNING)
    log.warning("loud")
    assert out.getvalue().count("\n") == 1
    assert "WARN  loud" in out.getvalue()


EXPOSURES = [
    f"GET /api/v1/ws/token-data?session={SECRET}&seq=4",
    f"GET /x?caps=resume&token={SECRET} HTTP/1.1",
    f"/x?ACCESS_TOKEN={SECRET}",
    f"wss://h/p?a=1&access_token={SECRET}#f",
    f"Authorization: Bearer {SECRET}",
    f"authorization: {SECRET}",
    f"Authorization=Basic {SECRET}",
    f"X-Tokenwire-Session: {SECRET}",
    str({"X-Tokenwire-Session": SECRET, "Authorization": f"Bearer {SECRET}"}),
    str([(b"authorization", f"Bearer {SECRET}".encode()), (b"x-tokenwire-session", SECRET.encode())]),
    str([("authorization", f"bearer {SECRET}")]),
    json.dumps({"authorization": f"Bearer {SECRET}"}),
    f"Host: h\r\nAuthorization: Bearer {SECRET}\r\nAccept: */*",
]


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("exposure", EXPOSURES)
def test_a_secret_never_appears(log_format: Literal["text", "json"], exposure: str) -> None:
    out = lines(log_format, level="debug")
    log.info(exposure)
    log.info("event", url=exposure)
    log.info("event", headers=[exposure])
    logging.getLogger("other").warning("%s then %r", exposure, exposure)
    assert out.getvalue().count("****") >= 5
    assert SECRET not in out.getvalue()


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("name", ["session", "token", "access_token", "authorization", "x_tokenwire_session"])
def test_a_field_of_a_secret_name_never_appears(log_format: Literal["text", "json"], name: str) -> None:
    out = lines(log_format)
    log.info("event", **{name: SECRET})
    assert SECRET not in out.getvalue()


def test_the_rest_of_a_line_stays() -> None:
    assert redact("GET /x?session=abc&seq=4 then token_batch=5") == "GET /x?session=****&seq=4 then token_batch=5"
    assert redact("Authorization: Bearer abc, next: 1") == "Authorization: Bearer ****, next: 1"
    assert redact("token PEPE, sessions=3") == "token PEPE, sessions=3"


def test_uvicorn_writes_through_the_same_handler() -> None:
    out = lines("json")
    logging.getLogger("uvicorn.error").info("Application startup %s", "complete")
    assert json.loads(out.getvalue())["event"] == "Application startup complete"


@pytest.mark.parametrize("access_log", [True, False])
def test_the_access_log_is_a_setting_and_redacted(access_log: bool) -> None:
    out = lines(access_log=access_log)
    access = logging.getLogger("uvicorn.access")
    assert access.hasHandlers() is access_log
    if access_log:
        access.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", f"/x?session={SECRET}", "1.1", 200)
        assert '127.0.0.1:1 - "GET /x?session=**** HTTP/1.1" 200' in out.getvalue()


def test_broken_requests_of_peers_do_not_fill_the_log() -> None:
    out = lines()
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert out.getvalue() == ""
    out = lines(level="debug")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert "Invalid HTTP request" in out.getvalue()


def test_configuring_again_replaces_the_former_handler() -> None:
    first, second = lines(), lines()
    log.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
