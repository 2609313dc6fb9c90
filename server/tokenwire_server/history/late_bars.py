"""Bars of late trades, merged into those that are stored. Pure."""

from collections.abc import Iterable, Mapping

from tokenwire_server.market.bar import Bar

__all__ = ["merge_late"]


def merge_late(stored: Iterable[Bar], late: Mapping[int, Bar]) -> list[Bar]:
    """The bars that ``late`` (by beginning) makes of those ``stored`` at the same times, which are changed."""
    merged = dict(late)
    for bar in stored:
        bar.merge(late[bar.open_ms])
        bar.revision += late[bar.open_ms].revision
        merged[bar.open_ms] = bar
    return list(merged.values())
