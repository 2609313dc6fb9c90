"""DexScreener's answers, pure: pairs in, facts about their base tokens out.

Documented at docs.dexscreener.com/api/reference. ``/latest/dex/…`` answers ``{"schemaVersion", "pairs": [..] | null}``,
``/tokens/v1/…`` a bare array. A token that was asked for may stand on the quote side of a pair, which then says
nothing of it. Most keys of a pair are optional, and so is each window of its volume: pairs without trades lack it.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from functools import reduce
from typing import Any, Final, TypeGuard

import msgspec

from tokenwire_server.market.decimals import EXACT, ZERO
from tokenwire_server.market.quotes import QUOTE_TOKENS
from tokenwire_server.market.values import TokenFacts
from tokenwire_server.sources.frames import FormatError
from tokenwire_server.sources.poller_findings import amount, label, positive
from tokenwire_server.validation.trades import MAX_ID_CHARS

__all__ = ["MAX_PAIRS", "Pair", "identity", "read_pairs", "tokens_of"]

MAX_PAIRS: Final = 1_000  # of one answer; it has 30 at most today

_EVM: Final = re.compile(r"0[xX][0-9a-fA-F]{40}")
_WINDOWS: Final = ("h24", "h1", "m5")


class Pair(msgspec.Struct, frozen=True):
    """One pair, as far as it speaks of its base token. ``native`` is the price in units of ``quote`` (SOL, BTC or
    ETH; empty for any other token); ``volumes`` are those of 24 hours, 1 hour and 5 minutes."""

    chain: str
    address: str
    base: str
    symbol: str
    name: str
    price: Decimal | None
    native: Decimal | None
    quote: str
    liquidity: Decimal
    market_cap: Decimal | None
    volumes: tuple[Decimal | None, Decimal | None, Decimal | None]


def identity(address: str) -> str:
    """An address as it is compared: EVM ones in lower case, all others exactly as they are."""
    return address.lower() if _EVM.fullmatch(address) else address


def read_pairs(document: Any) -> tuple[list[Pair], list[FormatError]]:
    """The pairs of an answer, each once, and what was no usable pair.

    Raises:
        FormatError: ``no_pairs``: this is no answer of DexScreener's; ``too_many_pairs``.
    """
    rows = document.get("pairs", document) if isinstance(document, Mapping) else document
    if rows is None:
        return [], []
    if not isinstance(rows, list):
        raise FormatError("no_pairs", document)
    if len(rows) > MAX_PAIRS:
        raise FormatError("too_many_pairs", len(rows))
    pairs: dict[tuple[str, str], Pair] = {}
    refused = []
    for row in rows:
        try:
            pair = _pair(row)
        except FormatError as error:
            refused.append(error)
        else:
            pairs.setdefault((pair.chain, pair.address), pair)
    return list(pairs.values()), refused


def tokens_of(
    pairs: Iterable[Pair], source: str, heard_ms: int, wanted: Collection[str] | None = None
) -> list[TokenFacts]:
    """The facts about the pairs' base tokens, of those in ``wanted`` (identities) or of all.

    The price comes from the pair with the most liquidity that has one in USD, else one in SOL, BTC or ETH; the
    liquidity and the volumes are sums over the token's pairs.
    """
    tokens: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        if wanted is None or pair.base in wanted:
            tokens.setdefault((pair.chain, pair.base), []).append(pair)
    return [_facts(pairs, source, heard_ms) for pairs in tokens.values()]


def _facts(pairs: list[Pair], source: str, heard_ms: int) -> TokenFacts:
    ranked = sorted(pairs, key=lambda pair: (-pair.liquidity, pair.address))
    priced = next((pair for pair in ranked if pair.price is not None), None)
    native = None if priced else next((pair for pair in ranked if pair.native is not None and pair.quote), None)
    best = priced or native or ranked[0]
    h24, h1, m5 = _volumes(ranked)
    return TokenFacts(
        source=source,
        chain=best.chain,
        address=best.base,
        heard_ms=heard_ms,
        symbol=best.symbol or next((pair.symbol for pair in ranked if pair.symbol), ""),
        name=best.name or next((pair.name for pair in ranked if pair.name), ""),
        price=best.price,
        native=None if native is None else native.native,
        quote="USD" if native is None else native.quote,
        liquidity=_sum(pair.liquidity for pair in ranked),
        market_cap=next((pair.market_cap for pair in (best, *ranked) if pair.market_cap is not None), None),
        h24=h24,
        h1=h1,
        m5=m5,
    )


def _volumes(pairs: list[Pair]) -> tuple[Decimal | None, Decimal | None, Decimal | None]:
    """Sums by window; a window that no pair states had no trades, unless none states any window at all."""
    if all(volume is None for pair in pairs for volume in pair.volumes):
        return None, None, None
    h24, h1, m5 = (_sum(pair.volumes[place] or ZERO for pair in pairs) for place in range(len(_WINDOWS)))
    return h24, h1, m5


def _sum(numbers: Iterable[Decimal]) -> Decimal:
    return reduce(EXACT.add, numbers, ZERO)


def _pair(row: object) -> Pair:
    if not isinstance(row, Mapping):
        raise FormatError("not_a_pair", row)
    chain, base, quote = row.get("chainId"), _part(row, "baseToken"), _part(row, "quoteToken")
    address, where = base.get("address"), row.get("pairAddress")
    if not _is_id(chain) or ":" in chain:
        raise FormatError("bad_chain", chain)
    if not _is_id(address):
        raise FormatError("bad_address", address)
    quoted = quote.get("address")
    native = positive(row.get("priceNative"))
    volume = _part(row, "volume")
    return Pair(
        chain=chain,
        address=where if _is_id(where) else "",
        base=identity(address),
        symbol=label(base.get("symbol")),
        name=label(base.get("name")),
        price=positive(row.get("priceUsd")),
        native=native,
        quote=QUOTE_TOKENS.get((chain, identity(quoted)), "") if isinstance(quoted, str) else "",
        liquidity=amount(_part(row, "liquidity").get("usd")) or ZERO,
        market_cap=positive(row.get("marketCap")),
        volumes=(amount(volume.get("h24")), amount(volume.get("h1")), amount(volume.get("m5"))),
    )


def _part(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object within a row; empty where it is missing, null or something else."""
    part = row.get(key)
    return part if isinstance(part, Mapping) else {}


def _is_id(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS and value.isprintable()
