"""The text of what the reference client sends."""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["request_text"]


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
    return json.dumps(message, separators=(",", ":"))
