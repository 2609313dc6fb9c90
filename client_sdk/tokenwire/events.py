"""What a client tells its application, in the order in which it happened, data and trouble in one stream.

Every event has ``received_ms``, Unix time in milliseconds by the local clock when it happened.
Prices, market caps and volumes are canonical decimal strings.

Values are many, and can be in no reference cycle: ``gc=False`` spares the garbage collector looking at them.
"""

from decimal import Decimal
from typing import Literal

import msgspec

__all__ = ["Connected", "Error", "Event", "Gap", "Quote", "Reconnecting", "Resumed", "Snapshot", "Stale", "Update"]


class Quote(msgspec.Struct, frozen=True, gc=False):
    """One token's value (Spec, Token Updates). ``name`` is what the application called it when it subscribed.

    ``version`` and ``source_time`` (event time, ms) are None from a server that does not send them (I-52);
    ``timestamp`` is the server's clock (ms) when the value was sent.
    """

    name: str
    address: str
    price: str
    market_cap: str
    volume_h24: str
    volume_h1: str
    volume_m5: str
    version: int | None
    source_time: int | None
    timestamp: int

    @property
    def price_decimal(self) -> Decimal:
        """The price, exactly."""
        return Decimal(self.price)


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """The current value of a token after a subscribe, after a reconnect without resume, or to repair a gap.

    ``missed`` as in :class:`Update`: how many versions lie between the last one seen and this, None if unknown.
    """

    quote: Quote
    sequence: int
    received_ms: int
    missed: int | None = None


class Update(msgspec.Struct, frozen=True, gc=False):
    """A new value of a token.

    ``missed`` counts the versions between the one seen before and this one that were conflated: by the server
    (it sends the newest value each interval) or by this client's queue. None when versions are not known.
    ``replayed``: the value is from the server's replay after a reconnect, so it may be older than now.
    """

    quote: Quote
    sequence: int
    received_ms: int
    missed: int | None = None
    replayed: bool = False


class Connected(msgspec.Struct, frozen=True):
    """A new session began: the first one, or one after the old was lost (``reason`` then says why, I-54).

    ``capabilities`` is what the server granted; empty from a strict v1.0 server. ``stream`` names what versions and
    numbers are comparable within: another one than before means that they begin anew. None: the server does not say.
    """

    connection_id: str
    capabilities: tuple[str, ...]
    reason: str | None
    received_ms: int
    stream: str | None = None


class Resumed(msgspec.Struct, frozen=True):
    """The session goes on after a reconnect; messages ``replay_from`` … ``replay_to`` are coming once more.

    No message was lost; values made while nobody was connected are conflated to the newest one (see ``missed``),
    or, with ``delivery="every"``, follow one by one. When there is nothing to replay ``replay_to`` is
    ``replay_from - 1``. ``outage_ms`` is how long this process was without a connection; after a restart from a
    checkpoint it counts from the restart.
    """

    connection_id: str
    replay_from: int
    replay_to: int
    outage_ms: int
    received_ms: int


class Reconnecting(msgspec.Struct, frozen=True):
    """The connection was lost, or a try to restore it failed; the next try is in ``delay_ms``.

    ``code`` is the close code (1006: no close frame) or None when no connection was made; ``status`` the HTTP
    status of a refused handshake; ``attempt`` counts the tries since the last stable connection, from 1.
    """

    attempt: int
    delay_ms: int
    code: int | None
    status: int | None
    cause: str
    received_ms: int


class Gap(msgspec.Struct, frozen=True):
    """Messages ``first`` to ``last`` (both included) of the session will not be received.

    When a session was lost nobody knows how many messages it would still have sent: ``last`` is None then, and
    ``first`` the number after the last one received, or None, too, if the session could not have been resumed.
    Gaps that met in a full queue are one; what its ends cannot say any more is None.
    ``repair`` is ``snapshot`` (current values follow), ``rest`` (fetch what is missing over HTTP), or ``none``.
    ``cause``: what the server said (``evicted``), or ``session_lost``, ``lost`` (in transit), ``several``.
    """

    first: int | None
    last: int | None
    cause: str
    repair: Literal["snapshot", "rest", "none"]
    received_ms: int


class Stale(msgspec.Struct, frozen=True):
    """The connection lives, but values are older than their source promises (UPSTREAM_STALE, UPSTREAM_UNAVAILABLE).

    ``tokens`` holds addresses as far as the server names them; empty when it does not.
    """

    code: str
    message: str
    tokens: tuple[str, ...]
    received_ms: int


class Error(msgspec.Struct, frozen=True):
    """The server reported an error or warning, or sent what is no message (then ``code`` is INVALID_SERVER_MESSAGE).

    ``action`` says what to do about it. ``names`` are the tokens concerned as the application wrote them.
    """

    code: str
    message: str
    level: Literal["fatal", "error", "warning"]
    action: str
    names: tuple[str, ...]
    received_ms: int


Event = Snapshot | Update | Connected | Resumed | Reconnecting | Gap | Stale | Error
"""Everything that iterating over a client yields."""
