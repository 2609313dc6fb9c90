"""One client of the tape's venue: its requests, its streams, and the form in which it wants frames.

Like the venue it shares nothing with the collector but the tape's line format.
"""

import asyncio
import json
import re
from typing import Any, Final

from websockets.asyncio.server import ServerConnection

from tokenwire_server.sources.tape_file import TapeLine

__all__ = ["Peer", "stream_of"]

MAX_STREAMS: Final = 1_024

_DATA: Final = re.compile(r'"data"\s*:\s*')
_DECODER: Final = json.JSONDecoder()


class Peer:
    """One client: which streams it wants, and in which form."""

    def __init__(self, socket: ServerConnection, combined: bool, streams: set[str]) -> None:
        self.socket = socket
        self.subscribed = asyncio.Event()
        self._combined = combined
        self._streams = streams
        if streams:
            self.subscribed.set()

    def answer(self, message: str | bytes) -> str:
        """Carry out a request and tell the result."""
        try:
            request = json.loads(message)
            method, number = request["method"], request.get("id")
            names = request.get("params", [])
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                return _error(number, 2, "Invalid request: params must be a list of stream names")
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            return _error(None, 3, "Invalid JSON: expected an object with method, params and id")
        result: list[str] | None = None
        if method == "SUBSCRIBE":
            if not names:
                return _error(number, 2, "Invalid request: no stream is named")
            if len(self._streams | set(names)) > MAX_STREAMS:
                return _error(number, 2, "Invalid request: too many streams")
            self._streams |= set(names)
            self.subscribed.set()
        elif method == "UNSUBSCRIBE":
            self._streams -= set(names)
        elif method == "LIST_SUBSCRIPTIONS":
            result = sorted(self._streams)
        else:
            return _error(number, 2, f"Invalid request: unknown method {str(method)[:40]!a}")
        return json.dumps({"result": result, "id": number}, separators=(",", ":"))

    def wants(self, line: TapeLine) -> str | None:
        """The captured frame in this client's form, or None when it did not subscribe to its stream."""
        found = stream_of(line.frame)
        if found is None:
            return None
        stream, raw = found
        if stream not in self._streams:
            return None
        if not self._combined:
            return raw
        return line.frame if raw != line.frame else f'{{"stream":"{stream}","data":{raw}}}'


def stream_of(frame: str) -> tuple[str, str] | None:
    """A captured frame's stream and the text of its event, cut out of the frame, never written anew."""
    try:
        message: Any = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    stream = message.get("stream")
    if isinstance(stream, str):
        key = _DATA.search(frame)
        if key is None:
            return None
        _, end = _DECODER.raw_decode(frame, key.end())
        return stream, frame[key.end() : end]
    kind, symbol = message.get("e"), message.get("s")
    return (f"{symbol.lower()}@{kind}", frame) if isinstance(kind, str) and isinstance(symbol, str) else None


def _error(number: object, code: int, text: str) -> str:
    return json.dumps({"error": {"code": code, "msg": text}, "id": number}, separators=(",", ":"))
