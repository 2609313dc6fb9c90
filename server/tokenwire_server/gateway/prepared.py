"""Routes that are answered with prepared bytes, in front of FastAPI, which only describes them.

A described route costs FastAPI some 80 µs to find, to read and to answer; at hundreds of requests a second beside a
thousand WebSockets that is worth saving.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from fastapi import FastAPI, HTTPException, Response

from tokenwire_server.gateway.http import (
    Answer,
    ASGIApp,
    Receive,
    Scope,
    Send,
    not_yet,
    problem,
    send_answer,
    unreadable,
)
from tokenwire_server.gateway.parameters import Parameter, read_query
from tokenwire_server.history.port import HistoryError
from tokenwire_server.ports import LoadingError
from tokenwire_server.validation.trades import MAX_ID_CHARS

__all__ = ["Asked", "Handler", "PreparedRoutes"]

_SUBJECT: Final = "{symbol}"


class Asked(NamedTuple):
    """A request: ``subject`` is the part of the path that names a token, if the route has one."""

    subject: str
    query: Mapping[str, str]
    headers: Sequence[tuple[bytes, bytes]]

    def header(self, name: bytes) -> str | None:
        """The value of a header, whose ``name`` is in small letters; of several, joined by commas."""
        found = [value for each, value in self.headers if each == name]
        return b", ".join(found).decode("latin-1") if found else None


Handler = Callable[[Asked], Awaitable[Answer]]
"""Answers a GET. Raises HTTPException for what is wrong with the request, HistoryError and LoadingError for what can't
be had now."""


class PreparedRoutes:
    """An ASGI application: answers the routes added to it, and passes everything else on to ``app``."""

    def __init__(self, app: FastAPI) -> None:
        self._described = app
        self._app: ASGIApp = app
        self._exact: dict[str, Handler] = {}
        self._prefixes: list[tuple[str, Handler]] = []

    def add(
        self,
        path: str,
        handler: Handler,
        *,
        summary: str,
        parameters: Sequence[Parameter[Any]] = (),
        responses: Mapping[int | str, dict[str, Any]],
        description: str = "",
    ) -> None:
        """Answer GET (and HEAD) of ``path``, which may end in ``{symbol}``: a name may hold slashes."""
        described = [each.describe() for each in parameters]
        if path.endswith(_SUBJECT):
            self._prefixes.append((path.removesuffix(_SUBJECT), handler))
            symbol = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS}
            about = {"description": "symbol or address of a token", "schema": symbol, "example": "DOGE"}
            described.insert(0, {"name": "symbol", "in": "path", "required": True, **about})
        else:
            self._exact[path] = handler

        self._described.add_api_route(
            path.replace(_SUBJECT, "{symbol:path}"),
            _unasked,
            methods=["GET"],
            name=path.removesuffix(_SUBJECT).strip("/").replace("/", "_"),
            summary=summary,
            description=description,
            responses=dict(responses),
            response_class=Response,
            openapi_extra={"parameters": described},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        found = self._find(scope["path"]) if scope["type"] == "http" and scope["method"] == "GET" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        handler, subject = found
        try:
            if len(subject) > MAX_ID_CHARS:
                raise HTTPException(422, f"symbol: at most {MAX_ID_CHARS} characters")
            answer = await handler(Asked(subject, read_query(scope["query_string"]), scope["headers"]))
        except HTTPException as error:
            headers = {"cache-control": "no-store", **(error.headers or {})}
            answer = problem(error.status_code, error.detail, scope["path"], headers)
        except HistoryError as error:
            answer = unreadable(error, scope["path"])
        except LoadingError as error:
            answer = not_yet(error, scope["path"])
        except Exception:
            await send_answer(send, "GET", problem(500, "the server failed; the fault is its own", scope["path"]))
            raise  # for the log
        await send_answer(send, "GET", answer)

    def _find(self, path: str) -> tuple[Handler, str] | None:
        exact = self._exact.get(path)
        if exact is not None:
            return exact, ""
        for prefix, handler in self._prefixes:
            if path.startswith(prefix):
                return handler, path[len(prefix) :]
        return None


async def _unasked() -> None:
    """FastAPI's endpoint of a prepared route, for the description and the 405: a GET never gets here."""
    raise NotImplementedError
