"""The names of all keys in Redis. Those of the index share the hash tag ``{tokens}``: on a cluster, one node."""

from typing import Final

from tokenwire_server.market.ranking import SortKey

__all__ = ["Keys"]

_TAG: Final = "{tokens}"


class Keys:
    """``prefix`` keeps installations apart that share one Redis."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        index = f"{prefix}{_TAG}"
        self.data: Final = f"{index}:data"
        """Hash: the row of each token, by address."""
        self.names: Final = f"{index}:names"
        """Hash: what names mean, see ``market.token_names``."""
        self.facts: Final = f"{index}:facts"
        """Hash: who says what of a token whose value is merged from several sources, by address."""
        self.meta: Final = f"{index}:meta"
        """Hash: ``generation``, ``published_ms`` and ``tokens`` of the index; per order, since which generation it is
        what it is, and when somebody last walked on in it."""
        self.kept: Final = f"{index}:kept"
        """Sorted set: orders of before that are kept for those who walk through them, by time of use."""
        self.base: Final = f"{index}:order"
        """What the keys of kept orders begin with."""
        self.orders: Final = {key: f"{index}:by_{key.lower()}" for key in SortKey}
        """Sorted set of addresses, for each order."""

    def staging(self, part: str) -> str:
        """Where ``part`` of an index is made."""
        return f"{self._prefix}{_TAG}:staging:{part}"

    def lock(self, name: str) -> str:
        """Who holds this lock."""
        return f"{self._prefix}{_TAG}:lock:{name}"

    def fence(self, name: str) -> str:
        """The number of the last time that this lock was granted."""
        return f"{self._prefix}{_TAG}:fence:{name}"

    def open_bar(self, symbol: str, interval: str) -> str:
        """The bar that runs now."""
        return f"{self._prefix}kline:{symbol}:{interval}:current"
