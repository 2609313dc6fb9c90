"""The text of what the reference client sends."""

import json
from collections.abc import Mapping
from typing import Any, Final

from tokenwire_conformance.figures import MAX_MESSAGE_BYTES

__all__ = ["request_text"]

_LONG_BYTES: Final = 65_536


def request_text(kind: str, number: int, wall_ms: float, data: Mapping[str, Any], faults: frozenset[str]) -> str:
    """A message with all four keys."""
    data = dict(data)
    if kind == "subscription":
        if "tokens-as-string" in faults:
            data["tokens"] = ",".join(data["tokens"])
        if "action-in-capitals" in faults:
            data["action"] = data["action"].upper()
    if "two-keys" in faults:
        return json.dumps({"type": kind, "data": data})
    message = {
        "type": kind,
        "sequence": 1 if "sequence-constant" in faults else number,
        "timestamp": round(wall_ms / (1000 if "timestamp-in-seconds" in faults else 1)),
        "data": data,
    }
    text = json.dumps(message, separators=(",", ":"))
    if "pads-requests" in faults and len(text) > _LONG_BYTES:
        return text + " " * MAX_MESSAGE_BYTES
    return text
