"""Trades that other programs post: ``POST /api/v1/trades`` and ``POST /internal/trades``."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from tokenwire_server.gateway.http import problem
from tokenwire_server.gateway.ingest_access import IngestAccess
from tokenwire_server.market.posted import (
    MAX_POST_TRADES,
    Outcome,
    OutcomeKind,
    PostError,
    TooManyTradesError,
    UnsettledError,
    read_post,
)
from tokenwire_server.settings import Settings
from tokenwire_server.validation.trades import MAX_SKEW_MS

__all__ = ["BODY_TIMEOUT_S", "INGEST_PATHS", "MAX_POSTS", "MAX_POST_BYTES", "TradeIntake", "add_ingest"]

MAX_POST_BYTES: Final = 1_048_576
MAX_POSTS: Final = 64  # at once: so much is held of bodies
BODY_TIMEOUT_S: Final = 30.0  # for the whole body, however steadily it comes
RETRY_AFTER_S: Final = 1
INGEST_PATHS: Final = ("/api/v1/trades", "/internal/trades")

_EXAMPLE: Final = {
    "id": "7f6c2a52-5d0c-4d2f-9b34-7d1f0f3d8a11",
    "symbol": "PEPE",
    "price": "0.000001234",
    "amount": 1000000,
    "side": "Buy",
    "timestamp": "2026-03-21T10:30:00Z",
}


class TradeIntake(Protocol):
    """Where posted trades go."""

    @property
    def ledger(self) -> object | None:
        """What stores them; None: nothing does, so that none can be taken."""

    async def take(self, raws: Sequence[msgspec.Raw]) -> list[Outcome]:
        """Take trades, durably; an outcome for each.

        Raises:
            UnsettledError: post the same again later.
        """


class RejectedTrade(BaseModel):
    """A trade that was not used."""

    index: int = Field(description="its place in the request, from 0 on")
    id: str | None = Field(description="null where it has none that can be used")
    code: Literal["DATA_REJECTED", "SYMBOL_TAKEN", "TOKEN_LIMIT"] = Field(
        description="DATA_REJECTED: correct it; SYMBOL_TAKEN: the token comes from another source; TOKEN_LIMIT: this "
        "server knows as many tokens as it may"
    )
    reason: str = Field(description="what exactly, as a stable name", examples=["price_not_positive"])
    message: str


class FlaggedTrade(BaseModel):
    """A trade that was used although something about it is odd."""

    index: int
    id: str
    flags: list[Literal["price_jump", "time_old", "time_ahead"]] = Field(
        description="price_jump: more than half above or below the price before; time_old: more than a day; "
        "time_ahead: more than a minute"
    )


class Ingested(BaseModel):
    """What became of the trades; accepted ones are durably stored."""

    accepted: int
    duplicates: int = Field(description="trades whose symbol and id were there already; they change nothing")
    rejected: list[RejectedTrade]
    flagged: list[FlaggedTrade]


class NothingIngested(Ingested):
    """A problem (RFC 9457), and each trade's own."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str


def add_ingest(app: FastAPI, intake: TradeIntake | None, settings: Settings, problem_schema: Mapping[str, Any]) -> None:
    """Add the routes. ``problem_schema`` is OpenAPI's content of an error; without ``intake`` nothing is taken."""
    access = IngestAccess(settings)
    posts = 0

    async def ingest(request: Request) -> Response:
        nonlocal posts
        access.check(request)
        _check_type(request)
        if intake is None or intake.ledger is None:
            raise HTTPException(
                503, "trades can't be taken, because nothing is stored here: start the server with --data DIR"
            )
        if posts >= MAX_POSTS:
            raise HTTPException(503, f"{MAX_POSTS} others are posting now", {"retry-after": str(RETRY_AFTER_S)})
        posts += 1
        try:
            trades = _read(await _body(request))
            outcomes = await intake.take(trades)
        except UnsettledError as error:
            detail = f"{error}; post the same again: trades that are there already count once"
            raise HTTPException(503, detail, {"retry-after": str(RETRY_AFTER_S)}) from None
        finally:
            posts -= 1
        return _answer(outcomes, request.url.path)

    responses: dict[int | str, dict[str, Any]] = {
        200: {"model": Ingested, "description": "At least one trade was accepted or there already (or none was sent)"},
        422: {
            "description": "All trades were rejected",
            "content": {"application/problem+json": {"schema": _schema(NothingIngested)}},
        },
    }
    for code, text in _PROBLEMS.items():
        responses[code] = {"description": text, "content": dict(problem_schema)}
    for path in INGEST_PATHS:
        app.add_api_route(
            path,
            ingest,
            methods=["POST"],
            name=f"post_{path.strip('/').replace('/', '_')}",
            summary="Post trades of your own",
            description=_ABOUT,
            responses=responses,
            response_class=Response,
            openapi_extra={"requestBody": _REQUEST_BODY, "security": [{}, {"ingestToken": []}]},
        )


def _check_type(request: Request) -> None:
    """Also what keeps web pages from posting without being asked for their origin first."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "send Content-Type: application/json", {"accept": "application/json"})
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "send the body uncompressed", {"accept-encoding": "identity"})


async def _body(request: Request) -> bytes:
    """The body; no more of it is read than is allowed."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and (len(announced) > len(str(MAX_POST_BYTES)) or int(announced) > MAX_POST_BYTES):
        raise HTTPException(413, f"the body is larger than {MAX_POST_BYTES} bytes; split it")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            chunks: AsyncIterator[bytes] = request.stream()
            async for chunk in chunks:
                size += len(chunk)
                if size > MAX_POST_BYTES:
                    raise HTTPException(413, f"the body is larger than {MAX_POST_BYTES} bytes; split it")
                parts.append(chunk)
    except TimeoutError:
        raise HTTPException(408, f"the body did not come within {BODY_TIMEOUT_S:g} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "the client left before the end of the body") from None
    return b"".join(parts)


def _read(body: bytes) -> list[msgspec.Raw]:
    try:
        return read_post(body)
    except TooManyTradesError as error:
        raise HTTPException(413, str(error)) from None
    except PostError as error:
        raise HTTPException(400, str(error)) from None


def _answer(outcomes: Sequence[Outcome], path: str) -> Response:
    kinds = [outcome.kind for outcome in outcomes]
    body: dict[str, Any] = {
        "accepted": kinds.count(OutcomeKind.ACCEPTED),
        "duplicates": kinds.count(OutcomeKind.DUPLICATE),
        "rejected": [
            {
                "index": index,
                "id": outcome.id,
                "code": outcome.code,
                "reason": str(outcome.refusal.reason),
                "message": outcome.refusal.message,
            }
            for index, outcome in enumerate(outcomes)
            if outcome.refusal is not None
        ],
        "flagged": [
            {"index": index, "id": outcome.id, "flags": outcome.doubts}
            for index, outcome in enumerate(outcomes)
            if outcome.doubts
        ],
    }
    if outcomes and kinds.count(OutcomeKind.REJECTED) == len(outcomes):
        status, text, headers = problem(422, "all trades were rejected; the reasons are in rejected", path)
        whole = msgspec.json.encode(msgspec.json.decode(text) | body)
        return Response(whole, status, {**headers, "cache-control": "no-store"})
    return Response(msgspec.json.encode(body), media_type="application/json", headers={"cache-control": "no-store"})


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's schema in one piece."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def inlined(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inlined(parts[node["$ref"].rpartition("/")[2]])
            return {key: inlined(value) for key, value in node.items()}
        return [inlined(each) for each in node] if isinstance(node, list) else node

    return {key: inlined(value) for key, value in schema.items()}


_PROBLEMS: Final = {
    400: "The body is not JSON, or neither an object nor an array",
    401: "An ingest token is needed, and it is missing or wrong",
    403: "Without an ingest token: not a program on this machine. With Origin: a page that may not post",
    408: "The body did not come in time",
    413: f"The body has more than {MAX_POST_BYTES} bytes, or more than {MAX_POST_TRADES} trades",
    415: "The content is not application/json",
    503: "Nothing is stored here, or not now; post the same again after Retry-After",
}
_NUMBER: Final = {
    "anyOf": [{"type": "string", "maxLength": 128}, {"type": "number"}],
    "description": "read exactly as written; more than 0, at most 38 digits before and 38 after the point",
}
_TRADE: Final = {
    "type": "object",
    "required": ["id", "symbol", "price", "amount", "side", "timestamp"],
    "properties": {
        "id": {
            "anyOf": [{"type": "string", "minLength": 1, "maxLength": 256}, {"type": "integer", "minimum": 0}],
            "description": "unique for the symbol; a repeated one changes nothing",
        },
        "symbol": {"type": "string", "minLength": 1, "maxLength": 256},
        "price": _NUMBER,
        "amount": _NUMBER,
        "side": {"type": "string", "description": "Buy or Sell, in any case: the taker's"},
        "timestamp": {
            "anyOf": [{"type": "string", "maxLength": 40}, {"type": "integer"}],
            "description": "RFC 3339 with a time zone, or Unix time in ms (below 10^11: in s); "
            f"at most {MAX_SKEW_MS // 3_600_000} hours ahead",
        },
        "venue": {
            "type": "string",
            "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$",
            "description": "the token's address is venue:symbol; by default as the server's settings say",
        },
    },
    "example": _EXAMPLE,
}
_REQUEST_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"anyOf": [_TRADE, {"type": "array", "items": _TRADE, "maxItems": MAX_POST_TRADES}]},
            "examples": {
                "one": {"summary": "One trade", "value": _EXAMPLE},
                "several": {
                    "summary": "Several trades",
                    "value": [_EXAMPLE, {**_EXAMPLE, "id": "4712", "side": "Sell", "timestamp": 1774089000123}],
                },
            },
        }
    },
}
_ABOUT: Final = (
    "One trade, or an array of them. Each is used once, however often it is posted: symbol (with venue) and id tell. A "
    "symbol that nobody else serves becomes a token with the address venue:symbol. Trades that are wrong are rejected "
    "one by one and do not hold up the others. An answer of 200 means that what was accepted, and what was there "
    "already, is durably stored; after 503 or a broken connection post the same again. From this machine only, unless "
    "the server has an ingest token."
)
