"""What an application may set; the specification's numbers by default."""

from typing import Literal

import msgspec

from tokenwire_schemas import limits

__all__ = ["ClientConfig"]


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one client session. Times are in milliseconds unless the name says otherwise.

    ``capabilities`` are asked for, and used as far as the server grants them; ``max_retries`` None means for ever;
    ``queue_events`` bounds what waits for the application, see ``overflow``:

    * ``latest`` (default): of each token only the newest waiting value is kept, and ``missed`` counts the others;
    * ``fail``: the client goes to FAILED with code QUEUE_OVERFLOW, nothing is left out silently.

    ``ack``: ``consumed`` acknowledges what the application took out of the queue; ``checkpoint`` only what the last
    saved checkpoint covers, so that a resume from it finds everything still held by the server.
    """

    url: str
    capabilities: tuple[str, ...] = ("batch", "heartbeat", "resume", "details")
    delivery: Literal["latest", "every"] = "latest"
    headers: tuple[tuple[str, str], ...] = ()
    max_retries: int | None = 10
    backoff_base_ms: int = limits.BACKOFF_BASE_MS
    backoff_cap_ms: int = limits.BACKOFF_CAP_MS
    stable_ms: int = 30_000
    connect_timeout_ms: int = limits.CONNECTION_TIMEOUT_MS
    idle_timeout_ms: int = limits.IDLE_TIMEOUT_MS
    ping_interval_ms: int = 10_000
    reply_timeout_ms: int = 10_000
    hold_frames: int = 1_024
    hold_ms: int = 2_000
    gap_timeout_ms: int = 5_000
    ack_interval_ms: int = 1_000
    ack_frames: int = 64
    ack: Literal["consumed", "checkpoint"] = "consumed"
    queue_events: int = 10_000
    overflow: Literal["latest", "fail"] = "latest"
