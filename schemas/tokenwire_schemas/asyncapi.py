"""An AsyncAPI 3.0.0 document of the service, built from the same schema files as everything else."""

import copy
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from tokenwire_schemas.schema_files import SCHEMAS, Schema

__all__ = ["PATH", "asyncapi_document"]

PATH: Final = "/api/v1/ws/token-data"
"""The endpoint's path (Spec, Endpoint Structure)."""

_SCHEMES: Final = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}
_CHANNEL: Final = "tokenData"

_SUMMARY: Final = "Real-time token data: price, market cap and rolling volume, pushed to subscribers."
_DESCRIPTION: Final = """\
With nothing negotiated the server sends only the four message types of v1.0 with exactly their fields. The
extensions are sent to a client that asked for them (query parameter `caps`) and was granted them: what was
granted stands in `data.capabilities` of the first message, and nothing else is in force."""

_QUERY: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "caps": {
            "type": "string",
            "description": "Capabilities asked for, comma-separated: batch, heartbeat, resume, details, channels, "
            "zstd. Unknown names are ignored.",
        },
        "delivery": {
            "type": "string",
            "enum": ["latest", "every"],
            "default": "latest",
            "description": "latest: only the newest value of a token is sent; every: each version (needs resume).",
        },
        "seq": {"type": "string", "description": "On a resume: the last number received in order."},
        "attempt": {"type": "string", "description": "On a resume: rises with every try of this client."},
        "session": {"type": "string", "description": "On a resume from a browser: the session's secret."},
    },
}
_HEADERS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "Authorization": {"type": "string", "description": "Bearer token, where the operator asks for one."},
        "X-Tokenwire-Session": {"type": "string", "description": "On a resume: the session's secret."},
        "Sec-WebSocket-Protocol": {"type": "string", "description": "token-data.v1 is echoed if offered."},
    },
}


def asyncapi_document(server_url: str | None = None, version: str = "1.0.0") -> dict[str, Any]:
    """The whole document, fresh at every call; what the *server* sends and receives.

    ``server_url`` is the base of the service (``ws``, ``wss``, ``http`` or ``https``, with an optional path);
    without it the document lists a development and a production server with placeholders. ``version`` is the
    version of the interface.

    Raises:
        ValueError: ``server_url`` has another scheme or no host.
    """
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Token Data WebSocket Service",
            "version": version,
            "description": f"{_SUMMARY}\n\n{_DESCRIPTION}",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": _servers(server_url),
        "channels": {_CHANNEL: _channel()},
        "operations": _operations(),
        "components": {
            "messages": {_key(name): _message(name, schema) for name, schema in SCHEMAS.items()},
            "schemas": _schemas(),
        },
    }


def _servers(url: str | None) -> dict[str, Any]:
    if url is None:
        base = {"description": "The base URL, host and port.", "default": "localhost:8080"}
        return {
            "development": {
                "host": "{baseUrl}",
                "protocol": "ws",
                "description": "Without TLS, for development.",
                "variables": {"baseUrl": base},
            },
            "production": {
                "host": "{baseUrl}",
                "protocol": "wss",
                "description": "With TLS.",
                "variables": {"baseUrl": {**base, "default": "example.com"}},
            },
        }
    parts = urlsplit(url)
    protocol = _SCHEMES.get(parts.scheme)
    host = parts.netloc.rpartition("@")[2]
    if protocol is None or not host:
        raise ValueError(f"not a ws, wss, http or https URL with a host: {url!r}")
    server = {"host": host, "protocol": protocol, "description": "This server."}
    path = parts.path.rstrip("/")
    return {"this": server | ({"pathname": path} if path else {})}


def _channel() -> dict[str, Any]:
    return {
        "address": PATH,
        "title": "Token data",
        "summary": _SUMMARY,
        "messages": {_key(name): {"$ref": f"#/components/messages/{_key(name)}"} for name in SCHEMAS},
        "bindings": {
            "ws": {
                "method": "GET",
                "query": copy.deepcopy(_QUERY),
                "headers": copy.deepcopy(_HEADERS),
                "bindingVersion": "0.1.0",
            }
        },
    }


def _operations() -> dict[str, Any]:
    operations: dict[str, Any] = {}
    for part, note in (("strict", "v1.0, always in force."), ("extended", "Extensions, once granted.")):
        sent = _names(f"{part}/server/")
        operations[f"send{part.capitalize()}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{_CHANNEL}"},
            "summary": f"What a client receives: {note}",
            "messages": _references(sent),
        }
        operations[f"receive{part.capitalize()}"] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{_CHANNEL}"},
            "summary": f"What a client sends: {note}",
            "messages": _references(_names(f"{part}/client/")),
            "reply": {
                "channel": {"$ref": f"#/channels/{_CHANNEL}"},
                "messages": _references(n for n in sent if n.endswith(("/subscription", "/error", "/heartbeat"))),
            },
        }
    return operations


def _names(prefix: str) -> list[str]:
    return [name for name in SCHEMAS if name.startswith(prefix)]


def _references(names: Iterable[str]) -> list[dict[str, str]]:
    return [{"$ref": f"#/channels/{_CHANNEL}/messages/{_key(name)}"} for name in names]


def _key(name: str) -> str:
    return name.replace("/", "-")


def _message(name: str, schema: Schema) -> dict[str, Any]:
    return {
        "name": name.rpartition("/")[2],
        "title": schema["title"],
        "summary": schema["description"],
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{_key(name)}"},
    }


def _schemas() -> dict[str, Any]:
    """The schema files, their definitions hoisted (one name is one definition in all files)."""
    bodies: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for name, schema in SCHEMAS.items():
        body = {key: value for key, value in schema.items() if key not in ("$schema", "$id", "$defs")}
        bodies[_key(name)] = _relocated(body)
        hoisted: Any = schema.get("$defs", {})
        definitions |= {key: _relocated(value) for key, value in hoisted.items()}
    return bodies | definitions


def _relocated(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: value.replace("#/$defs/", "#/components/schemas/")
            if key == "$ref" and isinstance(value, str)
            else _relocated(value)
            for key, value in node.items()
        }
    return [_relocated(item) for item in node] if isinstance(node, list) else node
