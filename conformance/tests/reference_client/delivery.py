"""What the reference client tells its application: values, errors, and the lines for them."""

import json
from collections.abc import Callable
from typing import Any, Final

__all__ = ["Delivery", "DiedError", "die", "told"]

_UPDATE: Final = {"address", "price", "marketCap", "volume"}
_CODES: Final = frozenset(
    {
        "AMBIGUOUS_TOKEN", "BATCH_LIMIT", "FORBIDDEN", "INTERNAL_ERROR", "INVALID_JSON", "INVALID_MESSAGE",
        "INVALID_TOKEN", "MAX_CONNECTIONS", "RATE_LIMITED", "RESUME_FAILED", "SERVER_SHUTDOWN", "SLOW_CONSUMER",
        "SUBSCRIPTION_LIMIT", "TOKEN_NOT_FOUND", "UNAUTHORIZED", "UNKNOWN_TYPE", "UPSTREAM_STALE",
        "UPSTREAM_UNAVAILABLE",
    }
)  # fmt: skip
"""Codes that a client might know; only the flags make a difference between them and others."""


class DiedError(Exception):
    """The client ends by an error of its own, as a flag demands."""


def die(faults: frozenset[str], fault: str) -> None:
    """End the client if ``fault`` is among its flags."""
    if fault in faults:
        raise DiedError(fault)


def told(kind: str, **fields: Any) -> str:
    """The line of an event."""
    return json.dumps({"event": kind, **fields})


class Delivery:
    """Turns messages that are in turn into events."""

    def __init__(self, emit: Callable[[str], None], faults: frozenset[str]) -> None:
        self._emit = emit
        self._faults = faults
        self._late: dict[str, Any] | None = None
        self.granted: frozenset[str] = frozenset()
        """Capabilities in force."""

    def deliver(self, envelope: dict[str, Any], *, replayed: bool) -> bool:
        """Tell of a message; whether it ends the connection."""
        kind, data = envelope.get("type"), envelope.get("data")
        if not isinstance(data, dict):
            return False
        if kind == "token_update":
            self._update(data)
        elif kind == "token_batch" and "batch" in self.granted:
            entries = data.get("updates")
            if "ignores-batch" in self._faults or not isinstance(entries, list):
                return False
            for entry in entries[: 1 if "first-of-batch" in self._faults else None]:
                if isinstance(entry, dict):
                    self._update(entry)
        elif kind == "error":
            return self._error(data) and (not replayed or "obeys-replayed-fatal" in self._faults)
        elif not isinstance(kind, str):
            die(self._faults, "dies-on-wrong-type" if "type" in envelope else "dies-on-missing-key")
        elif kind not in {"connection", "subscription"}:
            die(self._faults, "dies-on-unknown-type")
        return False

    def _update(self, data: dict[str, Any]) -> None:
        address, price = data.get("address"), data.get("price")
        if not set(data) <= _UPDATE:
            die(self._faults, "dies-on-unknown-field")
        if not set(data) >= _UPDATE:
            die(self._faults, "dies-on-missing-key")
            return
        if not isinstance(address, str) or not isinstance(price, str):
            die(self._faults, "dies-on-wrong-type")
            return
        if "float-price" in self._faults:
            price = str(float(price))
        now = {"address": address, "price": price}
        if "out-of-turn" in self._faults:
            if self._late is None:
                self._late = now
                return
            self._emit(told("update", **now))
            now, self._late = self._late, None
        self._emit(told("update", **now))

    def _error(self, data: dict[str, Any]) -> bool:
        code, level = data.get("code"), data.get("level")
        if not isinstance(code, str) or not isinstance(level, str):
            die(self._faults, "dies-on-wrong-type" if {"code", "level"} <= set(data) else "dies-on-missing-key")
            return False
        unknown = code not in _CODES
        hidden = "no-errors-told" in self._faults or (unknown and "drops-unknown-codes" in self._faults)
        if not hidden:
            self._emit(told("error", code=code, level="error" if "levels-lost" in self._faults else level))
        if level in {"warning", "error"}:
            return f"ends-on-{level}" in self._faults
        stays = "ignores-fatal" in self._faults or (unknown and "stays-at-unknown-fatal" in self._faults)
        return level == "fatal" and not stays
