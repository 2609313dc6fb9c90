"""The REST API with its OpenAPI description. Importing this module imports FastAPI: see :mod:`.http`."""

from functools import lru_cache
from typing import Any, Final, Literal, Protocol

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from limits import parse
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from tokenwire_schemas.errors import CATALOGUE
from tokenwire_server.cache.port import CacheState
from tokenwire_server.gateway.bar_queries import BarReader
from tokenwire_server.gateway.book import BookDirectory, add_book
from tokenwire_server.gateway.caching import UNTIL_HEADER
from tokenwire_server.gateway.handshake import ENDPOINT
from tokenwire_server.gateway.http import Answer, Answers, ASGIApp, problem, unreadable, without_upgrade
from tokenwire_server.gateway.indicators import add_indicators
from tokenwire_server.gateway.ingest import TradeIntake, add_ingest
from tokenwire_server.gateway.klines import add_klines
from tokenwire_server.gateway.pages import page
from tokenwire_server.gateway.prepared import PreparedRoutes
from tokenwire_server.gateway.rate_limits import EXEMPT_PATHS, LIMIT_HEADERS, RateLimits
from tokenwire_server.gateway.tokens import AGE_HEADER, TokenDirectory, add_tokens
from tokenwire_server.gateway.trades import TradeDirectory, add_trades
from tokenwire_server.gateway.udf import add_udf
from tokenwire_server.history.port import HistoryError
from tokenwire_server.history.recorder import HistoryState
from tokenwire_server.ports import SourceState
from tokenwire_server.settings import Settings

__all__ = ["build_rest"]

_PREFLIGHT_CACHE_S: Final = 600
_TEXT: Final[dict[str, Any]] = {"content": {"text/plain": {"schema": {"type": "string"}}}}
_ABOUT: Final = (
    "The request/response side of the Token Data WebSocket Service v1.0. Live data comes over the WebSocket at "
    f"{ENDPOINT}; /asyncapi.json describes its messages. Errors are application/problem+json."
)


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str


class HistoryReadiness(BaseModel):
    """Whether what comes in is stored."""

    state: HistoryState
    reason: str | None = Field(None, description="why it is behind, or fails; absent when ok")
    engine: str | None = Field(None, description="what it is stored in, with the version of that")


class CacheReadiness(BaseModel):
    """Whether the Redis can be reached that servers share their tokens through."""

    state: CacheState
    reason: str | None = Field(None, description="why it is degraded; absent when ok")
    engine: str | None = Field(None, description="what it is, with its version; absent until it was reached")
    role: str | None = Field(None, description="leading: this server polls and publishes; standby: another one does")
    generation: int | None = Field(None, description="of the tokens that this server knows; absent before the first")


class Readiness(BaseModel):
    """Whether this instance serves live data."""

    ready: bool
    reason: str | None = Field(None, description="why not; absent when ready")
    sources: dict[str, SourceState] = Field(description="state of each source, by name")
    history: HistoryReadiness | None = Field(None, description="absent where nothing is stored")
    cache: CacheReadiness | None = Field(None, description="absent without REDIS_URL")


class ErrorRow(BaseModel):
    """One error code that WebSocket messages carry, and what a client does about it."""

    model_config = ConfigDict(alias_generator=to_camel)

    code: str
    level: Literal["fatal", "error", "warning"]
    category: str
    retryable: bool = Field(description="the same request may succeed later, unchanged")
    close_code: int | None = Field(description="WebSocket close code, where the error can end the connection")
    meaning: str
    action: str


class ErrorCatalogue(BaseModel):
    """All error codes; published codes never change their meaning."""

    errors: list[ErrorRow]


def _problem_schema(description: str) -> dict[str, Any]:
    reference = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/problem+json": {"schema": reference}}}


_TOO_MANY: Final = {
    **_problem_schema("More requests than this client's limit"),
    "headers": {
        "Retry-After": {"description": "seconds until there is room again", "schema": {"type": "integer"}},
    },
}


def _response(answer: Answer) -> Response:
    status, body, headers = answer
    return Response(body, status, headers)


@lru_cache(maxsize=8)
def _asyncapi(server_url: str) -> bytes:
    from tokenwire_schemas.asyncapi import asyncapi_document  # noqa: PLC0415 - built from all schemas, rarely asked for

    return msgspec.json.encode(asyncapi_document(server_url))


class RestDirectory(TradeDirectory, TokenDirectory, BookDirectory, Protocol):
    """All that the routes read."""


def build_rest(
    answers: Answers, settings: Settings, directory: RestDirectory, intake: TradeIntake | None = None
) -> ASGIApp:
    """The described application behind the prepared routes, in the limit of each client, in what other origins may."""
    app = FastAPI(title="tokenwire", version="1.0", description=_ABOUT, docs_url=None, redoc_url=None)
    _add_probes(app, answers)
    problems: dict[int | str, dict[str, Any]] = {
        404: _problem_schema("No token has this name, or several"),
        422: _problem_schema("A parameter is wrong; the answer says which values there are"),
    }
    routes = PreparedRoutes(app)
    reader = BarReader(directory)
    add_klines(routes, directory, reader, problems)
    add_indicators(routes, directory, reader, problems)
    add_udf(routes, directory)
    add_trades(routes, directory, problems)
    add_book(routes, directory, problems, _problem_schema("The book has not come yet, or too many others are open"))
    add_tokens(routes, directory, {**problems, 410: _problem_schema("The cursor is no longer good; begin anew")})
    add_ingest(app, intake, settings, _problem_schema("")["content"])
    _add_descriptions(app, settings)
    _add_problems(app)
    # Problem is referred to by hand, since FastAPI knows no media type for errors but its own.
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        document["components"]["schemas"].setdefault("Problem", Problem.model_json_schema())
        for path, operations in document["paths"].items():
            if path not in EXEMPT_PATHS and "get" in operations:
                operations["get"]["responses"].setdefault("429", _TOO_MANY)
        document["components"]["securitySchemes"] = {"ingestToken": {"type": "http", "scheme": "bearer"}}
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    limited: ASGIApp = routes
    if settings.rest_rate_limit != "0":
        keys = [key.get_secret_value() for key in settings.rest_api_keys]
        limited = RateLimits(routes, parse(settings.rest_rate_limit), keys)
    origins = settings.allowed_origins or ()
    may_post = bool(origins) and ("*" not in origins or settings.ingest_token is not None)
    return CORSMiddleware(
        limited,
        allow_origins=settings.effective_origins,
        allow_methods=("GET", "HEAD", "POST") if may_post else ("GET", "HEAD"),
        allow_headers=("Authorization", "Content-Type", "If-None-Match", "X-API-Key"),
        expose_headers=("ETag", AGE_HEADER, UNTIL_HEADER, *LIMIT_HEADERS),
        max_age=_PREFLIGHT_CACHE_S,
    )


def _add_probes(app: FastAPI, answers: Answers) -> None:
    """The paths that are answered before this application is asked; here for their description, for requests
    of other origins and for OPTIONS. All handlers are ``async``: plain functions would each need a thread."""

    @app.get("/", summary="A live page for browsers, else a list of paths", response_class=Response)
    async def index(request: Request) -> Response:
        return _response(answers.index(request.headers.get("accept", "")))

    @app.get("/health", summary="OK while the process lives", response_class=Response, responses={200: _TEXT})
    async def health() -> Response:
        return _response(answers.health())

    @app.get(
        "/ready",
        summary="Whether this instance serves live data",
        responses={
            200: {"model": Readiness},
            503: {"model": Readiness, "description": "Draining, or no source delivers"},
        },
    )
    async def ready() -> Response:
        return _response(answers.ready())

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response, responses={200: _TEXT})
    async def metrics() -> Response:
        return _response(answers.metrics())

    @app.get(
        ENDPOINT,
        summary="The WebSocket endpoint",
        description="Upgrade to WebSocket to receive live token data; the messages are described in /asyncapi.json.",
        status_code=101,
        response_class=Response,
        response_description="Switching to WebSocket",
        responses={426: _problem_schema("Asked without an upgrade")},
    )
    async def token_data() -> Response:
        return _response(answers.upgrade_required())

    _add_streams(app)


def _add_streams(app: FastAPI) -> None:
    """The plain WebSocket paths, which need an upgrade as the endpoint does."""
    said: dict[str, Any] = {
        "status_code": 101,
        "response_class": Response,
        "response_description": "Switching to WebSocket",
        "responses": {426: _problem_schema("Asked without an upgrade")},
    }

    @app.get("/ws/transactions/{symbol}", summary="WebSocket: every trade of a token", **said)
    async def transactions(symbol: str) -> Response:
        return _response(without_upgrade(f"/ws/transactions/{symbol}"))

    @app.get("/ws/klines/{symbol}/{interval}", summary="WebSocket: bars, the open one included", **said)
    async def klines(symbol: str, interval: str) -> Response:
        return _response(without_upgrade(f"/ws/klines/{symbol}/{interval}"))

    @app.get("/ws/{symbol}", summary="WebSocket: every trade of a token in plain numbers", **said)
    async def trades(symbol: str) -> Response:
        return _response(without_upgrade(f"/ws/{symbol}"))


def _add_descriptions(app: FastAPI, settings: Settings) -> None:
    rows = [ErrorRow.model_validate(msgspec.to_builtins(entry)) for entry in CATALOGUE.values()]

    @app.get("/api/v1/errors", summary="The error catalogue")
    async def errors() -> ErrorCatalogue:
        return ErrorCatalogue(errors=rows)

    @app.get("/asyncapi.json", summary="The WebSocket messages, as AsyncAPI 3", response_class=JSONResponse)
    async def asyncapi(request: Request) -> Response:
        scheme = "wss" if request.url.scheme == "https" else "ws"
        host = request.headers.get("host") or f"{settings.host}:{settings.port}"
        return Response(_asyncapi(f"{scheme}://{host}"), media_type="application/json")

    @app.get("/docs", summary="This description, to read", include_in_schema=False)
    async def docs() -> HTMLResponse:
        body, policy = page("docs")
        return HTMLResponse(body, headers={"content-security-policy": policy, "referrer-policy": "no-referrer"})


def _add_problems(app: FastAPI) -> None:
    async def http_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = error.detail
        if error.status_code == 404 and detail == "Not Found":
            detail = "there is nothing here; GET / lists what there is"
        elif error.status_code == 405:
            detail = f"{request.method} is not possible here; use {(error.headers or {}).get('Allow', 'GET')}"
        return _response(problem(error.status_code, detail, request.url.path, error.headers))

    async def stored_unreadable(request: Request, error: Exception) -> Response:
        assert isinstance(error, HistoryError)
        return _response(unreadable(error, request.url.path))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        detail = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return _response(problem(422, detail, request.url.path))

    async def failed(request: Request, _: Exception) -> Response:
        return _response(problem(500, "the server failed; the fault is its own", request.url.path))

    app.add_exception_handler(HTTPException, http_problem)
    app.add_exception_handler(HistoryError, stored_unreadable)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, failed)
