"""GET over HTTP with bounds: time, size, no redirects. The one place where sources speak HTTP."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import msgspec

__all__ = ["MAX_BODY_BYTES", "REQUEST_TIMEOUT_S", "Answer", "HttpError", "HttpGet", "http_client"]

REQUEST_TIMEOUT_S: Final = 10.0
MAX_BODY_BYTES: Final = 4 * 1_048_576  # after decompression
MAX_CONNECTIONS: Final = 4


class HttpError(Exception):
    """No answer; the text says why in one line."""


class Answer(msgspec.Struct, frozen=True):
    """What came back: the status, the header Retry-After, the whole body."""

    status: int
    body: bytes
    retry_after: str | None = None


HttpGet = Callable[[str], Awaitable[Answer]]
"""Fetch a URL. Raises HttpError."""


@asynccontextmanager
async def http_client() -> AsyncIterator[HttpGet]:
    """A client for as long as the block lasts."""
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
        headers={"Accept": "application/json"},
        trust_env=True,  # a proxy, as for the stream
    ) as session:

        async def get(url: str) -> Answer:
            try:
                async with session.get(url, allow_redirects=False) as response:
                    body = await _bounded(response.content)
                    return Answer(response.status, body, response.headers.get("Retry-After"))
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                raise HttpError(f"{type(error).__name__}: {error}"[:200]) from None

        yield get


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HttpError(f"the answer is longer than {MAX_BODY_BYTES} bytes")
    return bytes(body)
