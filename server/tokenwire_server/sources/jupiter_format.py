"""Jupiter's answers, pure: what its token search and its price API say of Solana tokens.

Documented at dev.jup.ag (Tokens API V2, Price API V3). All numbers are JSON numbers, any may be null or missing. A
volume is what was bought plus what was sold; a window without trades is left out. ``fdv`` is no market cap.
"""

from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any, Final

from tokenwire_server.market.decimals import EXACT, ZERO
from tokenwire_server.market.values import TokenFacts
from tokenwire_server.sources.frames import FormatError
from tokenwire_server.sources.poller_findings import amount, label, positive

__all__ = ["CHAIN", "MAX_TOKENS", "read_prices", "read_tokens"]

CHAIN: Final = "solana"
MAX_TOKENS: Final = 1_000  # of one answer; a search takes 100 mints

_STATS: Final = ("stats24h", "stats1h", "stats5m")


def read_tokens(
    document: Any, source: str, heard_ms: int, wanted: Collection[str]
) -> tuple[list[TokenFacts], list[FormatError]]:
    """The facts of a search's answer about the mints in ``wanted``, and what in it was no usable token.

    Raises:
        FormatError: ``not_a_list``: this is no answer of the token search; ``too_many_tokens``.
    """
    if not isinstance(document, list):
        raise FormatError("not_a_list", document)
    if len(document) > MAX_TOKENS:
        raise FormatError("too_many_tokens", len(document))
    facts: dict[str, TokenFacts] = {}
    refused = []
    for row in document:
        mint = row.get("id") if isinstance(row, Mapping) else None
        if not isinstance(row, Mapping) or not isinstance(mint, str):
            refused.append(FormatError("not_a_token", row))
        elif mint not in wanted:
            refused.append(FormatError("not_asked_for", mint))
        else:
            facts.setdefault(mint, _token(row, mint, source, heard_ms))
    return list(facts.values()), refused


def read_prices(
    document: Any, source: str, heard_ms: int, wanted: Collection[str]
) -> tuple[list[TokenFacts], list[FormatError]]:
    """The facts of a price answer: an object by mint, from which mints without a price are missing.

    Raises:
        FormatError: ``not_an_object``: this is no answer of the price API.
    """
    if not isinstance(document, Mapping):
        raise FormatError("not_an_object", document)
    facts = []
    refused = []
    for mint in wanted:
        row = document.get(mint)
        if row is None:
            continue
        price = positive(row.get("usdPrice")) if isinstance(row, Mapping) else None
        if price is None:
            refused.append(FormatError("bad_price", row))
            continue
        liquidity = amount(row.get("liquidity"))
        facts.append(
            TokenFacts(source=source, chain=CHAIN, address=mint, heard_ms=heard_ms, price=price, liquidity=liquidity)
        )
    return facts, refused


def _token(row: Mapping[str, Any], mint: str, source: str, heard_ms: int) -> TokenFacts:
    h24, h1, m5 = _volumes(row)
    return TokenFacts(
        source=source,
        chain=CHAIN,
        address=mint,
        heard_ms=heard_ms,
        symbol=label(row.get("symbol")),
        name=label(row.get("name")),
        price=positive(row.get("usdPrice")),
        liquidity=amount(row.get("liquidity")),
        market_cap=positive(row.get("mcap")),
        h24=h24,
        h1=h1,
        m5=m5,
    )


def _volumes(row: Mapping[str, Any]) -> tuple[Decimal | None, Decimal | None, Decimal | None]:
    windows = [_volume(row.get(key)) for key in _STATS]
    if all(window is None for window in windows):
        return None, None, None
    h24, h1, m5 = (window or ZERO for window in windows)
    return h24, h1, m5


def _volume(stats: object) -> Decimal | None:
    if not isinstance(stats, Mapping):
        return None
    bought, sold = amount(stats.get("buyVolume")), amount(stats.get("sellVolume"))
    return None if bought is None and sold is None else EXACT.add(bought or ZERO, sold or ZERO)
