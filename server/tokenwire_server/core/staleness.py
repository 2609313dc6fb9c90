"""Which tokens are older than their source promises: alive connections must not hide dead data."""

from typing import Final

from tokenwire_schemas.limits import STALE_FACTOR, STALE_MIN_MS
from tokenwire_server.core.board import Row

__all__ = ["SourceHealth", "Staleness"]


class SourceHealth:
    """A source's promise and its last sign of life (monotonic ms), which confirms all its tokens. One that
    confirms each token by itself has ``confirmed_ms``: when, by the row's index."""

    __slots__ = ("alive_ms", "cadence_ms", "confirmed_ms", "limit_ms")

    def __init__(self, cadence_ms: int, now: int) -> None:
        self.cadence_ms: Final = cadence_ms
        self.limit_ms: Final = max(STALE_FACTOR * cadence_ms, STALE_MIN_MS)
        self.alive_ms = now
        self.confirmed_ms: dict[int, int] | None = None

    def seen_ms(self, index: int) -> int:
        """When the row of this index was confirmed last."""
        return self.alive_ms if self.confirmed_ms is None else self.confirmed_ms.get(index, 0)


class Staleness:
    """Compares every token's age with its source's limit; episodes begin and end here."""

    __slots__ = ("sources", "stale")

    def __init__(self) -> None:
        self.sources: dict[str, SourceHealth] = {}
        self.stale: set[int] = set()  # row indices

    def check(self, rows: list[Row], now: int) -> tuple[list[Row], bool]:
        """The rows that became stale just now, and whether any recovered."""
        newly: list[Row] = []
        recovered = False
        stale = self.stale
        for row in rows:
            source = self.sources.get(row.value.source)
            if source is None or not row.value.has_value:
                continue
            is_stale = now - max(row.changed_ms, source.seen_ms(row.index)) > source.limit_ms
            if is_stale and row.index not in stale:
                stale.add(row.index)
                newly.append(row)
            elif not is_stale and row.index in stale:
                stale.discard(row.index)
                recovered = True
        return newly, recovered
