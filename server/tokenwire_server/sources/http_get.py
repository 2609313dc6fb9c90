"""GET over HTTP with bounds: time, size, no redirects."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import msgspec

__all__ = [
    "MAX_BODY_BYTES",
    "REQUEST_TIMEOUT_S",
    "BodyTooLongError",
    "HttpError",
    "HttpGet",
    "Reply",
    "http_client",
    "read_body",
]  # fmt: skip

REQUEST_TIMEOUT_S: Final = 10.0  # from the connection to the last byte
MAX_BODY_BYTES: Final = 4 * 1_048_576  # after decompression; 100 tokens of Jupiter's are about 300 kB
MAX_CONNECTIONS: Final = 4


class HttpError(Exception):
    """No answer; the text says why in one line."""


class BodyTooLongError(HttpError):
    """The answer has more than ``MAX_BODY_BYTES``."""

    def __init__(self) -> None:
        super().__init__(f"the answer is longer than {MAX_BODY_BYTES} bytes")


class Reply(msgspec.Struct, frozen=True):
    """What came back: the status, the header Retry-After, the whole body."""

    status: int
    body: bytes
    retry_after: str | None = None


HttpGet = Callable[[str], Awaitable[Reply]]
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

        async def get(url: str) -> Reply:
            try:
                async with session.get(url, allow_redirects=False) as response:
                    body = await read_body(response)
                    return Reply(response.status, body, response.headers.get("Retry-After"))
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                raise HttpError(f"{type(error).__name__}: {error}"[:200]) from None

        yield get


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """The body, decompressed; what is beyond the bound is not even received.

    Raises:
        BodyTooLongError: it is longer than ``MAX_BODY_BYTES``.
    """
    if (response.content_length or 0) > MAX_BODY_BYTES:
        raise BodyTooLongError
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLongError
    return bytes(body)
