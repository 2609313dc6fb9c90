"""What several sources say of one token, merged into one value.

The rules:

* **Identity** is (chain, address). Base58 addresses are compared exactly, EVM ones regardless of case; symbols
  never identify anything, since anybody can mint a token of any symbol.
* A source's **newest** word replaces its older ones; the order of arrival never matters. What was heard within the
  last ``fresh_ms`` is *fresh*.
* **Price**: of the fresh facts with a price, the one with the most liquidity; at equal liquidity the newer, then the
  order of sources. A price that is not fresh is never stated: without a fresh one the token has no value and ages
  until it is announced as stale.
* **Market cap**: the first that is stated, in the order of sources, fresh facts first, then older ones from the
  newest on. A fully diluted valuation is no market cap. 0: nobody states one.
* **Volume**: all three windows come from *one* source, chosen like the market cap among those that state any; two
  sources count the same trades, so their volumes are never added. DexScreener's is the sum over the token's pairs
  as base, Jupiter's the sum of what was bought and sold. A window that this source leaves out had no trades: 0.
* **Symbol and name**: the first stated, in the order of sources.
* **Time**: when the newest of the facts was heard, so a merged value never goes back in time.

The order of sources is ``SOURCE_ORDER``, then any other by name; ``dexscreener#2`` ranks with ``dexscreener``.
"""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Final

from tokenwire_server.market.decimals import ZERO
from tokenwire_server.market.registry import wire_address
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.market.values import TokenFacts, TokenValue

__all__ = ["MAX_SOURCES_PER_TOKEN", "SOURCE_ORDER", "FactBook", "describe", "merge"]

SOURCE_ORDER: Final = ("dexscreener", "jupiter")
MAX_SOURCES_PER_TOKEN: Final = 8


def merge(facts: Iterable[TokenFacts], now_ms: int, fresh_ms: int) -> TokenValue | None:
    """The value that facts of one token, one of each source, amount to; None without a symbol or a fresh price.

    ``now_ms`` is Unix time; facts heard since ``now_ms - fresh_ms`` are fresh.
    """
    ranked = sorted(facts, key=_rank)
    fresh = [fact for fact in ranked if fact.heard_ms >= now_ms - fresh_ms]
    priced = [fact for fact in fresh if fact.price is not None]
    info = describe(ranked)
    if not priced or info is None:
        return None
    best = max(priced, key=_trust)  # the first of equals: those are in the order of sources
    assert best.price is not None
    older = sorted((fact for fact in ranked if fact not in fresh), key=lambda fact: -fact.heard_ms)
    by_choice = [*fresh, *older]
    windows = next((fact for fact in by_choice if (fact.h24, fact.h1, fact.m5) != (None, None, None)), best)
    return TokenValue(
        address=wire_address(info),
        price=best.price,
        market_cap=next((fact.market_cap for fact in by_choice if fact.market_cap is not None), ZERO),
        h24=windows.h24 or ZERO,
        h1=windows.h1 or ZERO,
        m5=windows.m5 or ZERO,
        time_ms=max(fact.heard_ms for fact in ranked),
        facts=tuple(ranked),
    )


def describe(facts: Iterable[TokenFacts]) -> TokenInfo | None:
    """The token's description as the facts give it; None as long as nobody states a symbol."""
    ranked = sorted(facts, key=_rank)
    symbol = next((fact.symbol for fact in ranked if fact.symbol), "")
    if not symbol:
        return None
    name = next((fact.name for fact in ranked if fact.name), "")
    return TokenInfo(ranked[0].address, symbol, name=name, chain=ranked[0].chain)


class FactBook:
    """The newest facts of every source about every token: at most ``max_tokens`` tokens, and of each at most
    ``MAX_SOURCES_PER_TOKEN`` sources. What does not fit is refused and counted in ``refused``."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._tokens: dict[tuple[str, str], dict[str, TokenFacts]] = {}
        self.refused = 0

    def __len__(self) -> int:
        return len(self._tokens)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """The identities of the tokens."""
        return iter(self._tokens)

    def hear(self, fact: TokenFacts) -> bool:
        """Keep a fact unless the same source said something newer; False when there is no room for it."""
        token = self._tokens.get(fact.key)
        if token is None:
            if len(self._tokens) >= self._max_tokens:
                self.refused += 1
                return False
            token = self._tokens[fact.key] = {}
        held = token.get(fact.source)
        if held is None and len(token) >= MAX_SOURCES_PER_TOKEN:
            self.refused += 1
            return False
        if held is None or _age(fact) >= _age(held):
            token[fact.source] = fact
        return True

    def facts(self, key: tuple[str, str]) -> tuple[TokenFacts, ...]:
        """What is known of a token, in the order of sources."""
        return tuple(sorted(self._tokens.get(key, {}).values(), key=_rank))

    def forget(self, before_ms: int) -> list[tuple[str, str]]:
        """Drop what was heard before ``before_ms`` (Unix ms); the tokens of which nothing is left."""
        gone = []
        for key, token in list(self._tokens.items()):
            for source in [source for source, fact in token.items() if fact.heard_ms < before_ms]:
                del token[source]
            if not token:
                del self._tokens[key]
                gone.append(key)
        return gone


def _rank(fact: TokenFacts) -> tuple[int, str]:
    kind = fact.source.partition("#")[0]
    return SOURCE_ORDER.index(kind) if kind in SOURCE_ORDER else len(SOURCE_ORDER), fact.source


def _trust(fact: TokenFacts) -> tuple[Decimal, int]:
    return fact.liquidity or ZERO, fact.heard_ms


def _age(fact: TokenFacts) -> tuple[int, str]:
    # Two different words of one millisecond have no order of their own: their text gives them one.
    return fact.heard_ms, str(fact)
