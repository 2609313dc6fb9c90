"""Structured logs over the standard library's ``logging``: an event, and key=value fields beside it.

``get_log(__name__).info("connection opened", id=connection_id, peer=peer)`` becomes a line for people
(``12:00:00.123 INFO  connection opened id=… peer=…``) or a JSON object for machines. Secrets are masked where
lines are made, so no caller has to remember to: query parameters, headers, and fields of these names.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, Literal, TextIO

__all__ = ["JsonFormatter", "Log", "TextFormatter", "configure_logging", "get_log", "redact"]

MASK: Final = "****"
MAX_FIELD_CHARS: Final = 2_048
_NAMES: Final = r"session|token|access_token|authorization|proxy-authorization|x-tokenwire-session"
_SECRET_FIELDS: Final = frozenset({*_NAMES.split("|"), "x_tokenwire_session", "password", "secret"})
# A parameter's value ends at & or at anything that can't stand in a URL. Names may follow anything, such as the
# \n of a repr: masking too much is the lesser harm.
_PARAMETER: Final = re.compile(r"(?i)(session|token|access_token)=[^&\s\"'<>#]+")
# A header, as text, as a pair of str or bytes, or as an item of a mapping; the scheme's name may stay.
_HEADER: Final = re.compile(
    r"(?i)(authorization|x-tokenwire-session)([\"']?\s*[:=,]\s*(?:b?[\"'])?)((?:bearer|basic|token)\s+)?[^\s,;\"')}\]]+"
)
# What a terminal would act on, or what would start a line of the writer's own making.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PLAIN: Final = re.compile(r"[^\s\"=]+")


def redact(text: str) -> str:
    """``text`` with the values of secret parameters and headers masked."""
    text = _PARAMETER.sub(rf"\1={MASK}", text)
    return _HEADER.sub(rf"\1\2\3{MASK}", text)


def _escape(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, Mapping) else {}


def _clean(key: str, value: object) -> object:
    """A field's value, safe to show: numbers as they are, everything else as bounded, redacted text."""
    if key.lower() in _SECRET_FIELDS:
        return MASK
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else str(value)
    return redact(text if len(text) <= MAX_FIELD_CHARS else text[:MAX_FIELD_CHARS] + "…")


class TextFormatter(logging.Formatter):
    """One readable line an event, in local time; tracebacks follow on lines of their own."""

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colours = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[1;31m"} if colour else {}

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        start = self._colours.get(record.levelname, "")
        end = "\x1b[0m" if start else ""
        level = f"{start}{_LEVELS.get(record.levelname, record.levelname):<5}{end}"
        words = [f"{clock}.{int(record.msecs):03d} {level} {_escape(redact(record.getMessage()))}"]
        for key, value in _fields(record).items():
            shown = _escape(str(_clean(key, value)))
            quoted = '"' + shown.replace('"', '\\"') + '"'
            words.append(f"{key}={shown if _PLAIN.fullmatch(shown) else quoted}")
        line = " ".join(words)
        if record.exc_info:
            line += "\n" + redact(self.formatException(record.exc_info))
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (Unix seconds), ``level``, ``logger``, ``event``, then the fields.

    A field whose name one of those has taken is written as ``field_NAME``.
    """

    def format(self, record: logging.LogRecord) -> str:
        row: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": redact(record.getMessage()),
        }
        for key, value in _fields(record).items():
            row[f"field_{key}" if key in row or key == "exception" else key] = _clean(key, value)
        if record.exc_info:
            row["exception"] = redact(self.formatException(record.exc_info))
        # Escaping all that is not ASCII also keeps lone surrogates from clients writable.
        return json.dumps(row)


_LEVELS: Final = {"WARNING": "WARN", "CRITICAL": "FATAL"}


class Log:
    """A logger whose calls take fields as keyword arguments. Nothing is formatted below the level in force."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def enabled(self, level: int) -> bool:
        """Whether events of this level are written; ask before computing costly fields."""
        return self._logger.isEnabledFor(level)

    def debug(self, event: str, /, **fields: object) -> None:
        """What helps to find a fault: single messages, steps of a handshake."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """What an operator follows: connections, sources, start and end."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Something is degraded, and mends itself or waits for a hand."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, *, exc_info: BaseException | bool = False, **fields: object) -> None:
        """Something failed; ``exc_info`` adds the traceback."""
        self._write(logging.ERROR, event, fields, exc_info)

    def _write(self, level: int, event: str, fields: Mapping[str, Any], exc_info: BaseException | bool = False) -> None:
        if self._logger.isEnabledFor(level):
            # The event is passed as an argument: a % in it is only a %.
            self._logger.log(level, "%s", event, exc_info=exc_info or None, extra={"fields": fields})


def get_log(name: str) -> Log:
    """The log of a module: ``get_log(__name__)``."""
    return Log(logging.getLogger(name))


class _NoPeerNoise(logging.Filter):
    """Lets uvicorn's complaints about single broken requests pass only at debug: peers could fill a disk."""

    _NOISE: Final = (
        "Invalid HTTP request received.",
        "Unsupported upgrade request.",
        "Started server process [%d]",
        "Finished server process [%d]",
    )

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg not in self._NOISE or logging.getLogger().isEnabledFor(logging.DEBUG)


def configure_logging(
    level: str = "info",
    log_format: Literal["text", "json"] = "text",
    *,
    access_log: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Send all logs of the process, uvicorn's included, to ``stream`` (standard error) in one format.

    Give uvicorn ``log_config=None`` and ``access_log=`` the same value. Calling again replaces the former set-up.
    """
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(colour=target.isatty()))
    root = logging.getLogger()
    for former in root.handlers[:]:
        if isinstance(former.formatter, TextFormatter | JsonFormatter):
            root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # Libraries speak up below warning only when they are asked by name; their wire logs would drown ours.
    for noisy in ("asyncio", "aiohttp", "websockets", "urllib3"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.filters.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    logging.getLogger("uvicorn.error").addFilter(_NoPeerNoise())
    # Without a handler in reach uvicorn does not even build the line.
    logging.getLogger("uvicorn.access").propagate = access_log
