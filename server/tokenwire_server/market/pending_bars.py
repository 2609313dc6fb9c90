"""Bars that wait to be stored together. Pure."""

from copy import copy

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.records import Series

__all__ = ["PendingBars"]


class PendingBars:
    """As a ``Batch`` has them, told in the order of what happened: ``bars`` take the place of those that are stored,
    ``late`` ones are merged into them."""

    def __init__(self) -> None:
        self.bars: dict[Series, dict[int, Bar]] = {}
        self.late: dict[Series, dict[int, Bar]] = {}

    def put(self, series: Series, bar: Bar) -> None:
        """This is the bar now, whatever was before."""
        self.bars.setdefault(series, {})[bar.open_ms] = bar
        late = self.late.get(series)
        if late is not None:
            late.pop(bar.open_ms, None)

    def merge(self, series: Series, bar: Bar) -> None:
        """Late trades of a bar, in the form of a bar of their own, which is left as it is."""
        held = self.bars.get(series, {}).get(bar.open_ms)
        if held is None:
            late = self.late.setdefault(series, {})
            held = late.get(bar.open_ms)
            if held is None:
                late[bar.open_ms] = copy(bar)
                return
        held.merge(bar)
        held.revision += bar.revision
