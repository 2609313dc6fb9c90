"""Text of the wire to values and back. Pure; the only place that parses what a peer sent.

Client messages go through the standard library's ``json``: ``msgspec`` refuses a lone surrogate anywhere in
the text, while here it may only cost the one name it stands in. Everything sent goes through ``msgspec``.
"""

import json
import math
import re
from json import JSONDecodeError
from typing import Final, Never, TypeVar

import msgspec

from tokenwire_schemas.errors import ErrorCode
from tokenwire_schemas.extension_messages import ExtendedServerMessage
from tokenwire_schemas.limits import MAX_SEQUENCE, MAX_TOKEN_NAME_CHARS
from tokenwire_schemas.messages import ServerMessage

__all__ = [
    "CodecError",
    "decode_client_message",
    "decode_extended_message",
    "decode_server_message",
    "echo_name",
    "encode_data",
    "envelope",
]


class CodecError(ValueError):
    """A text that is no message. ``code`` goes into the error reply, ``message`` is fit for the wire."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def _integer(text: str) -> int:
    """An integer of JSON, its digits cut beyond any valid field and beyond what an echo shows.

    ``int`` is quadratic in the digits and refuses more than 4300; the cut keeps sign, leading digits and
    "out of every range".
    """
    return int(text[: MAX_TOKEN_NAME_CHARS + 1])


def _number(text: str) -> int | float:
    """A number with a fraction or exponent; ``1.0`` and ``1e3`` are integers, as in JSON Schema.

    What exceeds a double saturates, so no infinity enters.
    """
    value = float(text)
    if abs(value) <= MAX_SEQUENCE:
        return int(value) if value.is_integer() else value
    return value if math.isfinite(value) else math.copysign(1.7976931348623157e308, value)


def _constant(text: str) -> Never:
    raise CodecError(ErrorCode.INVALID_JSON, f"not JSON: {text} is no JSON value")


_decoder: Final = json.JSONDecoder(parse_int=_integer, parse_float=_number, parse_constant=_constant)


def decode_client_message(text: str | bytes) -> dict[str, object]:
    """The JSON object in ``text`` (bytes: UTF-8 without a byte order mark).

    Only the outermost shape is checked; of duplicate keys the last wins; strings may hold lone surrogates.

    Raises:
        CodecError: INVALID_JSON when the text is not JSON (NaN and infinities are not, nor is nesting deeper
            than the interpreter can follow); INVALID_MESSAGE when it is JSON but not an object.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value: object = _decoder.decode(text)
    except UnicodeDecodeError as error:
        raise CodecError(ErrorCode.INVALID_JSON, f"not UTF-8 at byte {error.start}") from None
    except JSONDecodeError as error:
        raise CodecError(ErrorCode.INVALID_JSON, f"not JSON: {error}") from None
    except RecursionError:
        raise CodecError(ErrorCode.INVALID_JSON, "not JSON that can be read: nested too deeply") from None
    if not isinstance(value, dict):
        raise CodecError(ErrorCode.INVALID_MESSAGE, "a message is a JSON object")
    return value


_encoder: Final = msgspec.json.Encoder()


def encode_data(data: object) -> bytes:
    """The JSON of a message's ``data`` (a Struct, or anything msgspec encodes), keys in wire order, compact.

    Raises:
        UnicodeEncodeError: a string holds a lone surrogate; :func:`echo_name` cures what a client sent.
    """
    return _encoder.encode(data)


def envelope(message_type: str, sequence: int, timestamp: int, data: bytes) -> bytes:
    """A whole message around encoded ``data``; keys in the order type, sequence, timestamp, data.

    ``timestamp`` in milliseconds of Unix time; ``message_type`` is one of the protocol's names, not escaped.
    """
    return b'{"type":"%b","sequence":%d,"timestamp":%d,"data":%b}' % (
        message_type.encode("ascii"),
        sequence,
        timestamp,
        data,
    )


_T = TypeVar("_T")
_extended_message: Final[msgspec.json.Decoder[ExtendedServerMessage]] = msgspec.json.Decoder(ExtendedServerMessage)
_server_message: Final[msgspec.json.Decoder[ServerMessage]] = msgspec.json.Decoder(ServerMessage)


def decode_server_message(text: str | bytes) -> ServerMessage:
    """A message of a strict v1.0 server, typed; unknown fields are ignored.

    Raises:
        CodecError: INVALID_JSON when the text is not JSON; INVALID_MESSAGE when it is no v1.0 message.
    """
    return _typed(_server_message, text)


def decode_extended_message(text: str | bytes) -> ExtendedServerMessage:
    """A message of a server that granted capabilities, typed; reads strict ones too, as their extended kind.

    Raises:
        CodecError: INVALID_JSON when the text is not JSON; INVALID_MESSAGE when it is no message of v1.0 or
            of its extensions.
    """
    return _typed(_extended_message, text)


def _typed(decoder: msgspec.json.Decoder[_T], text: str | bytes) -> _T:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise CodecError(ErrorCode.INVALID_MESSAGE, str(error)) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CodecError(ErrorCode.INVALID_JSON, str(error)) from None


_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def echo_name(value: object) -> str:
    """How a reply names ``value``, a refused entry of ``tokens``, so that the client recognises it.

    A string as it was given, anything else as its JSON text; lone surrogates are escaped (a backslash, ``u``
    and four hex digits), and no more than 256 characters are kept. The result can always be encoded.
    """
    if not isinstance(value, str):
        try:
            value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        except RecursionError:
            value = "{…}" if isinstance(value, dict) else "[…]"
    return _SURROGATE.sub(_escape, value[:MAX_TOKEN_NAME_CHARS])[:MAX_TOKEN_NAME_CHARS]
