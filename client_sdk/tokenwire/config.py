"""What an application may set; the specification's numbers by default."""

import re
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from tokenwire.cuts import as_repr, hidden_values, shown, without_secrets
from tokenwire.errors import ConfigError
from tokenwire_schemas import limits

__all__ = ["ClientConfig"]

_CAPABILITY: Final = re.compile(r"[A-Za-z0-9_.-]+\Z")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HEADER_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*\Z")


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one client session. Times are in milliseconds unless the name says otherwise.

    ``capabilities`` are asked for, and used as far as the server grants them; ``max_retries`` None means for ever;
    ``queue_events`` bounds what waits for the application, see ``overflow``:

    * ``latest`` (default): when the queue is full, or (unless ``delivery`` is ``every``) its oldest event has waited
      for ``max_wait_ms``, of each token only the newest waiting value is kept, and ``missed`` counts the others;
    * ``fail``: the client goes to FAILED with code QUEUE_OVERFLOW, nothing is left out silently.

    ``ack``: ``consumed`` acknowledges what the application took out of the queue; ``checkpoint`` only what the last
    saved checkpoint covers, so that a resume from it finds everything still held by the server.

    ``resume`` is useful only with ``details``, whose ids tell which request an answer belongs to after a reconnect:
    asking for the one asks for the other, and a session granted without ``details`` is not resumed.

    ``channel`` is what is subscribed of each token (I-60): its value, or trades, bars or the book, which then are the
    events. It needs the capability ``channels``.

    ``also_reconnect`` names close codes after which the client comes back although their range says not to (I-44).
    ``hold_frames``, ``hold_bytes`` and ``hold_ms`` bound what is kept behind a hole in the numbers (I-65).

    Raises:
        ConfigError: a value that cannot work; the message names the setting.
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
    hold_bytes: int = 16_777_216
    hold_ms: int = 2_000
    gap_timeout_ms: int = 5_000
    ack_interval_ms: int = 1_000
    ack_frames: int = 64
    ack: Literal["consumed", "checkpoint"] = "consumed"
    queue_events: int = 10_000
    max_wait_ms: int = 1_000
    overflow: Literal["latest", "fail"] = "latest"
    also_reconnect: tuple[int, ...] = ()
    channel: str = ""

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """The fields without what may be secret in ``url`` and ``headers``."""
        return shown(self, url=without_secrets(self.url), headers=hidden_values(self.headers))

    def __repr__(self) -> str:
        """Without what may be secret."""
        return as_repr(type(self).__name__, self.__rich_repr__())

    def __post_init__(self) -> None:
        _check_url(self.url)
        _check_types(self)
        for name in _POSITIVE:
            value = getattr(self, name)
            if value <= 0:
                raise _refusal(f"{name} must be positive, not {value}", "Give a larger value.")
        if self.max_retries is not None and self.max_retries < 0:
            raise _refusal("max_retries must not be negative", "Give None to retry for ever.")
        for capability in self.capabilities:
            if not _CAPABILITY.match(capability):
                raise _refusal(f"{capability!r} is no name of a capability", "Use names like batch or resume.")
        if "resume" in self.capabilities and "details" not in self.capabilities:
            msgspec.structs.force_setattr(self, "capabilities", (*self.capabilities, "details"))
        if self.channel and "channels" not in self.capabilities:
            raise _refusal(f"the channel {self.channel!r} needs the capability channels", "Add it to capabilities.")
        if self.delivery == "every" and "resume" not in self.capabilities:
            raise _refusal("delivery 'every' needs the capability resume", "Add resume to capabilities.")
        for name, text in self.headers:
            if not _HEADER_NAME.match(name) or not _HEADER_VALUE.match(text):
                raise _refusal(f"header {name!r} cannot be sent", "Use a plain name and a value on one line.")


def _check_types(config: ClientConfig) -> None:
    """A typo must not pass for another setting."""
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            raise _refusal(f"{name} cannot be {getattr(config, name)!r}", f"Use {' or '.join(choices)}.")
    for name in (*_POSITIVE, "max_retries"):
        value = getattr(config, name)
        if (value is not None or name != "max_retries") and (isinstance(value, bool) or not isinstance(value, int)):
            raise _refusal(f"{name} cannot be {value!r}", "Give a whole number.")


_CHOICES: Final = {
    "delivery": ("latest", "every"),
    "ack": ("consumed", "checkpoint"),
    "overflow": ("latest", "fail"),
}
_POSITIVE: Final = (
    "max_wait_ms",
    "backoff_base_ms",
    "backoff_cap_ms",
    "stable_ms",
    "connect_timeout_ms",
    "idle_timeout_ms",
    "ping_interval_ms",
    "reply_timeout_ms",
    "hold_frames",
    "hold_bytes",
    "hold_ms",
    "gap_timeout_ms",
    "ack_interval_ms",
    "ack_frames",
    "queue_events",
)


def _refusal(message: str, remedy: str) -> ConfigError:
    return ConfigError("INVALID_CONFIG", message, remedy)


def _check_url(url: str) -> None:
    remedy = "Give the endpoint as ws://host/path or wss://host/path."
    if any(character <= " " or character == "\x7f" for character in url):
        raise _refusal("the URL holds spaces or control characters", remedy)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise _refusal(f"the URL cannot be read: {error}", remedy) from None
    if parts.scheme not in {"ws", "wss"}:
        raise _refusal(f"the URL's scheme is {parts.scheme or 'missing'!r}, not ws or wss", remedy)
    if not host:
        raise _refusal("the URL names no host", remedy)
    if parts.fragment:
        raise _refusal("a WebSocket URL has no #fragment", remedy)
