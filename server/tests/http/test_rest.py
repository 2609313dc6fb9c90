"""The described API: its documents, the catalogue, and other origins."""

import json

import pytest

from tokenwire_schemas.errors import CATALOGUE
from tokenwire_server.gateway.http import HttpApp, build_http_app
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.settings import Settings

from .asgi import FakeStatus, ask, no_bars

ENDPOINT = "/api/v1/ws/token-data"


def build(**settings: object) -> HttpApp:
    return build_http_app(FakeStatus(), lambda: (b"", "text/plain"), Settings(**settings), no_bars())  # type: ignore[arg-type]


async def test_the_error_catalogue() -> None:
    rows = (await ask(build(), "/api/v1/errors")).json["errors"]
    assert [row["code"] for row in rows] == [str(code) for code in CATALOGUE]
    limit = next(row for row in rows if row["code"] == "MAX_CONNECTIONS")
    assert (limit["level"], limit["closeCode"], limit["retryable"]) == ("fatal", 1013, True)
    assert all(row["meaning"] and row["action"] for row in rows)


async def test_openapi_describes_every_path_that_is_answered() -> None:
    app = build()
    document = (await ask(app, "/openapi.json")).json
    assert document["openapi"].startswith("3.")
    described = {"/", "/health", "/ready", "/metrics", ENDPOINT, "/api/v1/errors", "/asyncapi.json"}
    described |= {"/api/v1/klines/{symbol}", "/api/klines/{symbol}", "/api/v1/indicators/{symbol}"}
    described |= {f"/udf/{name}" for name in ("config", "symbols", "search", "history", "time")}
    described |= {"/api/v1/tokens", "/api/v1/tokens/{symbol}", "/api/v1/trades/{symbol}", "/api/v1/book/{symbol}"}
    described |= {"/api/v1/trades", "/internal/trades"}
    described |= {"/ws/transactions/{symbol}", "/ws/klines/{symbol}/{interval}", "/ws/{symbol}"}
    assert document["paths"].keys() == described
    schemas = document["components"]["schemas"]
    for reference in set(_references(document)):
        assert reference.removeprefix("#/components/schemas/") in schemas
    assert document["paths"][ENDPOINT]["get"]["responses"].keys() == {"101", "426"}
    assert "503" in document["paths"]["/ready"]["get"]["responses"]
    listed = (await ask(app, "/")).json["endpoints"]
    assert described - {"/"} | {"/openapi.json", "/docs"} == listed.keys()


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        here = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return here + [found for value in node.values() for found in _references(value)]
    return [found for item in node for found in _references(item)] if isinstance(node, list) else []


async def test_asyncapi_names_the_server_that_was_asked() -> None:
    reply = await ask(build(), "/asyncapi.json", headers={"host": "data.example.org"})
    assert reply.status == 200
    assert reply.json["asyncapi"].startswith("3.")
    assert "data.example.org" in json.dumps(reply.json["servers"])


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/", ENDPOINT])
async def test_a_light_path_answers_the_same_through_the_described_api(path: str) -> None:
    app = build()
    light, described = await ask(app, path), await ask(app, path, headers={"origin": "https://a.example"})
    assert (light.status, light.body) == (described.status, described.body)
    assert described.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("settings", "origin", "allowed"),
    [
        ({}, "https://a.example", "*"),
        ({"host": "0.0.0.0"}, "https://a.example", None),
        ({"allowed_origins": ("https://a.example",)}, "https://a.example", "https://a.example"),
        ({"allowed_origins": ("https://a.example",)}, "https://b.example", None),
    ],
)
async def test_other_origins(settings: dict[str, object], origin: str, allowed: str | None) -> None:
    app = build(**settings)
    for path in ("/health", "/api/v1/errors"):
        reply = await ask(app, path, headers={"origin": origin})
        assert reply.status == 200
        assert reply.headers.get("access-control-allow-origin") == allowed


async def test_a_preflight() -> None:
    headers = {"origin": "https://a.example", "access-control-request-method": "GET"}
    reply = await ask(build(), "/api/v1/errors", "OPTIONS", headers)
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "*")
    refused = {**headers, "access-control-request-method": "DELETE"}
    assert (await ask(build(), "/api/v1/errors", "OPTIONS", refused)).status == 400


async def test_options_without_an_origin_names_the_methods() -> None:
    reply = await ask(build(), "/health", "OPTIONS")
    assert (reply.status, reply.headers["content-type"]) == (405, "application/problem+json")
    assert "GET" in reply.headers["allow"]


async def test_while_the_market_is_being_read_nothing_is_unknown(app: HttpApp, pipeline: Pipeline) -> None:
    is_loading = True
    pipeline.hub.is_loading = lambda: is_loading
    paths = [
        *("/api/v1/klines/PEPE", "/api/klines/NOBODY", "/api/v1/trades/PEPE", "/api/v1/tokens", "/api/v1/tokens/PEPE"),
        *("/api/v1/indicators/PEPE?indicator=sma:3", "/udf/search?query=P&limit=3", "/udf/symbols?symbol=PEPE"),
    ]
    for path in paths:
        reply = await ask(app, path)
        assert (reply.status, reply.headers["retry-after"], reply.headers["cache-control"]) == (503, "1", "no-store")
        assert b"the log is being read" in reply.body
    is_loading = False
    for path in paths:
        assert (await ask(app, path)).status == (404 if "NOBODY" in path else 200)
