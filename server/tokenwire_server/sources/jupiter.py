"""What to ask Jupiter: the token search, 100 mints at a time, then the price API for those it has no price of."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import msgspec

from tokenwire_server.market.values import TokenFacts
from tokenwire_server.sources.frames import FormatError
from tokenwire_server.sources.jupiter_format import read_prices, read_tokens
from tokenwire_server.sources.poller_findings import Answer, Findings, Question, Steps, batches

__all__ = ["DEFAULT_URL", "KEY_HEADER", "MINTS_PER_PRICES", "MINTS_PER_SEARCH", "Jupiter"]

DEFAULT_URL: Final = "https://api.jup.ag"
KEY_HEADER: Final = "x-api-key"
REQUESTS_PER_MINUTE: Final = 30  # without a key; with one, 60 and more
REQUESTS_PER_MINUTE_WITH_KEY: Final = 60
MINTS_PER_SEARCH: Final = 100
MINTS_PER_PRICES: Final = 50

_Read = Callable[[Any, str, int, Collection[str]], tuple[list[TokenFacts], list[FormatError]]]


class Jupiter:
    """The API. ``mints`` are addresses of Solana tokens; ``key`` is the API key, empty for none."""

    def __init__(self, mints: Sequence[str], key: str = "") -> None:
        self._mints = list(dict.fromkeys(mints))
        self._key = key

    @property
    def requests_per_minute(self) -> int:
        """What the service allows with and without a key."""
        return REQUESTS_PER_MINUTE_WITH_KEY if self._key else REQUESTS_PER_MINUTE

    @property
    def headers(self) -> dict[str, str]:
        """The key, where there is one."""
        return {KEY_HEADER: self._key} if self._key else {}

    def cycle(self, source: str, findings: Findings) -> Steps:
        """Ask for everything once."""
        known: dict[str, TokenFacts] = {}
        unpriced: list[str] = []
        try:
            for batch in batches(self._mints, MINTS_PER_SEARCH):
                answer = yield Question("/tokens/v2/search", (("query", ",".join(batch)),))
                found = _read(answer, read_tokens, source, findings, batch)
                if found is not None:
                    known |= found
                    unpriced += [mint for mint in batch if mint not in found or found[mint].price is None]
            for batch in batches(unpriced, MINTS_PER_PRICES):
                answer = yield Question("/price/v3", (("ids", ",".join(batch)),))
                prices = _read(answer, read_prices, source, findings, batch) or {}
                for mint, price in prices.items():
                    before = known.get(mint)
                    known[mint] = price if before is None else _with_price(before, price)
        finally:  # a cycle that breaks off has found what it has found
            findings.facts += known.values()
            findings.missing += sum(mint not in known for mint in unpriced)


def _with_price(token: TokenFacts, price: TokenFacts) -> TokenFacts:
    liquidity = price.liquidity if token.liquidity is None else token.liquidity
    return msgspec.structs.replace(token, price=price.price, liquidity=liquidity, heard_ms=price.heard_ms)


def _read(
    answer: Answer | None, read: _Read, source: str, findings: Findings, wanted: Sequence[str]
) -> dict[str, TokenFacts] | None:
    """The answer's facts by mint; None if there is no answer or it is none of Jupiter's."""
    if answer is None:
        return None
    try:
        facts, refused = read(answer.document, source, answer.heard_ms, frozenset(wanted))
    except FormatError as error:
        findings.reject_answer(error)
        return None
    for refusal in refused:
        findings.reject(refusal)
    return {fact.address: fact for fact in facts}
