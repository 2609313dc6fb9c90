"""From messages to events: values are applied and queued, and what was taken is known exactly."""

import re
from collections.abc import Sequence
from typing import Final, cast

from msgspec import UNSET

from tokenwire.channels import ChannelMessage, item, items_of
from tokenwire.checkpoint import Checkpoint
from tokenwire.events import Event, Quote, Snapshot, Update
from tokenwire.metrics import ClientMetrics
from tokenwire.queue import Entry, EventQueue, Lineage
from tokenwire.tokens import Token, TokenTable
from tokenwire_schemas.extension_messages import ExtendedTokenUpdateData
from tokenwire_schemas.limits import MAX_SEQUENCE, MAX_TOKEN_NAME_CHARS

__all__ = ["Delivery"]

_are_decimals: Final = re.compile(r"(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*[1-9])? ){5}").fullmatch
"""The five figures of a value, all canonical (I-12), in one look: five cost twice as much."""
_are_short_decimals: Final = re.compile(r"(?:(?:0|[1-9][0-9]{0,49}+)(?:\.[0-9]{0,48}[1-9])? )*+").fullmatch
"""The figures of many values, canonical and surely short enough, in one look: that halves the cost once more."""
_MAX_FIGURE_CHARS: Final = 100
_SURELY_SHORT_CHARS: Final = _MAX_FIGURE_CHARS + 9
"""Of all five, each with a space: if one were too long the others would make it more than this."""
_MAX_FORMER: Final = 1_000
"""So many versions of tokens that nobody wants any more are kept, for the case that they are wanted again."""


class Delivery:
    """The application's side of a session.

    ``versioned``: the server granted ``details``, so versions count (I-52).
    """

    __slots__ = ("_metrics", "_most_versions", "_table", "_taken", "_versions", "lineage", "queue", "versioned")

    def __init__(self, table: TokenTable, queue: EventQueue, metrics: ClientMetrics, lineage: Lineage) -> None:
        self._table = table
        self._metrics = metrics
        self.queue = queue
        self.lineage = lineage
        """The session that what is received now belongs to."""
        self._taken = lineage
        self._versions: dict[str, int] = {}
        self._most_versions = 2 * _MAX_FORMER
        self.versioned = False

    def restore(self, checkpoint: Checkpoint, lineage: Lineage) -> None:
        """Goes on where ``checkpoint`` was made."""
        self.lineage = self._taken = lineage
        for name, address in checkpoint.names.items():
            self._table.want(name)
            if address is not None:
                token = self._table.bind(name, address)
                if token is not None:
                    token.version = checkpoint.versions.get(address)
                    token.restored = True
        self._versions = dict(checkpoint.versions)

    # --- in -----------------------------------------------------------------------------------------------------

    def apply(
        self,
        updates: Sequence[ExtendedTokenUpdateData],
        sequence: int,
        timestamp: int,
        wall: int,
        replayed: bool,
    ) -> str | None:
        """Values of one message: newer ones are applied and queued, others counted.

        A value whose figures cannot be relied on is left out; the address of the first such one is returned.
        """
        made: list[Snapshot | Update] = []
        try:
            return self._apply(updates, sequence, timestamp, wall, replayed, made)
        finally:
            self._metrics.updates += len(made)
            self.queue.put_values(made)

    def _apply(
        self,
        updates: Sequence[ExtendedTokenUpdateData],
        sequence: int,
        timestamp: int,
        wall: int,
        replayed: bool,
        made: list[Snapshot | Update],
    ) -> str | None:
        table, metrics, versioned = self._table, self._metrics, self.versioned
        wrong: str | None = None
        tokens, put = table.tokens, made.append
        version: int | None
        figures_are_sound = _are_sound(updates)
        for data in updates:
            address = data.address
            token = tokens.get(address)
            if token is None:
                token = table.adopt(address)
                if token is None:
                    metrics.unsubscribed += 1
                    wrong = wrong or (address if len(address) > MAX_TOKEN_NAME_CHARS else None)
                    continue
            stated, source_time = data.version, data.source_time
            if (
                not (figures_are_sound or _is_sound(data))
                or (stated is not UNSET and not 0 <= stated <= MAX_SEQUENCE)
                or (source_time is not UNSET and not 0 <= source_time <= MAX_SEQUENCE)
            ):
                wrong = wrong or address
                continue
            version = missed = None
            if versioned and stated is not UNSET:
                version = stated
                before = token.version
                if before is not None:
                    if version <= before:
                        metrics.stale_versions += 1
                        if version == before:
                            token.expects_snapshot = False
                            if token.quote is None:  # taken before a restart: no event, but the value at hand
                                token.quote = self._quote(token, data, version, timestamp)
                        continue
                    missed = version - before - 1
                    metrics.conflated_by_server += missed
                token.version = version
            quote = self._quote(token, data, version, timestamp)
            token.quote = quote
            if token.expects_snapshot:
                token.expects_snapshot = False
                put(Snapshot(quote, sequence, wall, missed))
            else:
                put(Update(quote, sequence, wall, missed, replayed))
        return wrong

    def happened(self, message: ChannelMessage, wall: int) -> str | None:
        """Trades, a bar or a book: each becomes an event, whatever its version says.

        One that cannot be read is left out; the address of the first such one is returned.
        """
        wrong: str | None = None
        tokens, metrics = self._table.tokens, self._metrics
        for data, version in items_of(message):
            token = tokens.get(data.address) or self._table.adopt(data.address)
            if token is None:
                metrics.unsubscribed += 1
                wrong = wrong or (data.address if len(data.address) > MAX_TOKEN_NAME_CHARS else None)
                continue
            try:
                happened = item(token.name, data, wall)
            except (ValueError, OverflowError):
                wrong = wrong or data.address
                continue
            if version is not None and not 0 <= version <= MAX_SEQUENCE:
                wrong = wrong or data.address
                continue
            token.version = version
            metrics.updates += 1
            # Only a session with a channel has these, and whoever reads that one knows.
            self.queue.put(Entry(cast(Event, happened), message.sequence - 1))
        return wrong

    def _quote(self, token: Token, data: ExtendedTokenUpdateData, version: int | None, timestamp: int) -> Quote:
        volume, source_time = data.volume, data.source_time
        return Quote(
            token.name,
            data.address,
            data.price,
            data.market_cap,
            volume.h24,
            volume.h1,
            volume.m5,
            version,
            None if source_time is UNSET or not self.versioned else source_time,
            timestamp,
        )

    def tell(self, event: Event, floor: int, lineage: Lineage | None = None) -> None:
        """Queues an event that is no value; ``floor`` and ``lineage`` as in :class:`Entry`."""
        self.queue.put(Entry(event, floor, lineage))

    # --- out ----------------------------------------------------------------------------------------------------

    def take(self) -> Event | None:
        """The oldest event, None when there is none."""
        taken = self.queue.take()
        if taken is None:
            return None
        if isinstance(taken, Entry):
            if taken.lineage is not None:
                if taken.lineage.stream is None or taken.lineage.stream != self._taken.stream:
                    self._versions.clear()
                self._taken = taken.lineage
                self.queue.severed = False
            return taken.event
        version = taken.quote.version
        if version is not None:
            self._versions[taken.quote.address] = version
            if len(self._versions) > self._most_versions:
                self._forget_former()
        return taken

    def _forget_former(self) -> None:
        """Lets go of most tokens that are not subscribed any more, seldom enough to cost nothing."""
        wanted = self._table.by_address
        former = [address for address in self._versions if address not in wanted]
        for address in former[:-_MAX_FORMER]:
            del self._versions[address]
        self._most_versions = len(self._versions) + _MAX_FORMER

    def position(self, last: int) -> int | None:
        """The number of the current session up to which every event was taken; ``last`` is the last one received.

        None while events of an earlier session are waiting.
        """
        head = self.queue.next
        if head is None:
            return last
        if self.queue.severed or self._taken is not self.lineage:
            return None
        return min(head.floor if isinstance(head, Entry) else head.sequence - 1, last)

    def checkpoint(self, last: int, attempt: int) -> Checkpoint:
        """What was taken, exactly."""
        head = self.queue.next
        taken = self._taken
        if head is None:
            position = last
        elif isinstance(head, Entry):
            position = head.floor
        else:
            position = head.sequence - 1
        secret, stream = taken.secret, taken.stream
        if self.queue.severed:
            secret = stream = None
        table = self._table
        names = {name: wanted.address for name, wanted in table.wanted.items()}
        versions = {address: version for address, version in self._versions.items() if address in table.by_address}
        return Checkpoint(
            session=secret,
            position=0 if secret is None else position,
            attempt=attempt,
            stream=stream,
            names=names,
            versions=versions if stream is not None else {},
        )


def _are_sound(updates: Sequence[ExtendedTokenUpdateData]) -> bool:
    """Whether all figures are surely sound; if not, :func:`_is_sound` tells which."""
    figures = "".join([f"{data.price} {data.market_cap} {(v := data.volume).h24} {v.h1} {v.m5} " for data in updates])
    # A figure that holds a space would be taken for two.
    return _are_short_decimals(figures) is not None and figures.count(" ") == 5 * len(updates)


def _is_sound(data: ExtendedTokenUpdateData) -> bool:
    """Whether the figures are canonical and of a length that makes sense."""
    volume = data.volume
    figures = f"{data.price} {data.market_cap} {volume.h24} {volume.h1} {volume.m5} "
    if not _are_decimals(figures):
        return False
    return len(figures) <= _SURELY_SHORT_CHARS or max(map(len, figures.split(" "))) <= _MAX_FIGURE_CHARS
