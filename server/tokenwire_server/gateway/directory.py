"""What the REST API needs to know of the market, as a Protocol."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from tokenwire_server.market.bar_pages import BarPage, PageRequest
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.market.market import TokenState
from tokenwire_server.market.registry import Resolution
from tokenwire_server.ports import SourceState

__all__ = ["BarDirectory"]


class BarDirectory(Protocol):
    """Tokens by name, and their bars."""

    @property
    def bar_plan(self) -> BarPlan:
        """The intervals that there are."""

    def resolve(self, name: str) -> Resolution:
        """What a name for a token means."""

    def value(self, address: str) -> TokenState | None:
        """The token at exactly this address."""

    def listed(self) -> Iterator[TokenState]:
        """All tokens, in order of arrival. Not to be held on to while tokens arrive."""

    async def bar_page(self, address: str, request: PageRequest) -> BarPage:
        """Bars of the token at this address, which exists. The interval is one of the plan's; ``limit`` is any."""

    def source_states(self) -> Mapping[str, SourceState]:
        """Every source's state, by its name."""

    def wall_ms(self) -> int:
        """Unix time."""
