"""From what an application is told to entries of a history."""

from loadtests.faults.history import Began, Delivered, Entry, Gapped, Retrying
from tokenwire.events import Connected, Event, Gap, Reconnecting, Resumed, Snapshot, Update

__all__ = ["entry_of"]


def entry_of(event: Event, t: int, client: str, run: int, retry_after_ms: int | None = None) -> Entry | None:
    """What the history says of ``event``; None if nothing. ``retry_after_ms``: what the server asked for, if it did."""
    if isinstance(event, Update | Snapshot):
        quote = event.quote
        is_snapshot = isinstance(event, Snapshot)
        return Delivered(
            t, client, run, event.sequence, quote.address, quote.price, quote.version, event.missed, is_snapshot
        )
    if isinstance(event, Connected):
        return Began(t, client, run, event.connection_id, False, event.reason)
    if isinstance(event, Resumed):
        return Began(t, client, run, event.connection_id, True)
    if isinstance(event, Gap):
        return Gapped(t, client, run, event.first, event.last, event.cause)
    if isinstance(event, Reconnecting):
        return Retrying(t, client, run, event.delay_ms, event.code, event.status, retry_after_ms)
    return None
