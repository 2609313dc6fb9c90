"""Live token prices over the Token Data WebSocket protocol v1.0.

    from tokenwire import TokenClient, Update

    async with TokenClient("ws://127.0.0.1:8080") as client:
        await client.subscribe(["DOGE"])
        async for event in client:
            if isinstance(event, Update):
                print(event.quote.name, event.quote.price)

``tokenwire.sync`` has the same client for programs without asyncio. Importing this package is cheap: asyncio and
the WebSocket library are loaded when the first client is made.
"""

from typing import TYPE_CHECKING, Any

from tokenwire.config import ClientConfig
from tokenwire.errors import (
    CheckpointError,
    ClientClosedError,
    ConfigError,
    ConnectionFailedError,
    RequestError,
    SubscriptionError,
    TokenwireError,
)
from tokenwire.events import (
    Connected,
    Error,
    Event,
    Gap,
    Quote,
    Reconnecting,
    Resumed,
    Snapshot,
    Stale,
    Update,
)
from tokenwire.states import ConnectionState

if TYPE_CHECKING:
    from tokenwire.aio import Subscribed, TokenClient
    from tokenwire.channels import Bar, Book, Trade
    from tokenwire.indicator_stream import Indicators, IndicatorStream
    from tokenwire.metrics import ClientMetrics
    from tokenwire.rest import Rest, RestError
    from tokenwire.sharding import ClientCheckpoint
    from tokenwire.streams import BarStream, BookStream, TradeStream
    from tokenwire.url import InvalidUrlError

    __version__: str

__all__ = [
    "Bar",
    "BarStream",
    "Book",
    "BookStream",
    "CheckpointError",
    "ClientCheckpoint",
    "ClientClosedError",
    "ClientConfig",
    "ClientMetrics",
    "ConfigError",
    "Connected",
    "ConnectionFailedError",
    "ConnectionState",
    "Error",
    "Event",
    "Gap",
    "IndicatorStream",
    "Indicators",
    "InvalidUrlError",
    "Quote",
    "Reconnecting",
    "RequestError",
    "Rest",
    "RestError",
    "Resumed",
    "Snapshot",
    "Stale",
    "Subscribed",
    "SubscriptionError",
    "TokenClient",
    "TokenwireError",
    "Trade",
    "TradeStream",
    "Update",
    "__version__",
]

_LAZY = {
    "Bar": "tokenwire.channels",
    "BarStream": "tokenwire.streams",
    "Book": "tokenwire.channels",
    "BookStream": "tokenwire.streams",
    "ClientCheckpoint": "tokenwire.sharding",
    "ClientMetrics": "tokenwire.metrics",
    "IndicatorStream": "tokenwire.indicator_stream",
    "Indicators": "tokenwire.indicator_stream",
    "InvalidUrlError": "tokenwire.url",
    "Rest": "tokenwire.rest",
    "RestError": "tokenwire.rest",
    "Subscribed": "tokenwire.aio",
    "TokenClient": "tokenwire.aio",
    "Trade": "tokenwire.channels",
    "TradeStream": "tokenwire.streams",
}


def __getattr__(name: str) -> Any:
    """Load what needs more than a few milliseconds when it is asked for."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        value: object = version("tokenwire")
    elif name in _LAZY:
        from importlib import import_module  # noqa: PLC0415

        value = getattr(import_module(_LAZY[name]), name)
    else:
        raise AttributeError(f"module 'tokenwire' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
