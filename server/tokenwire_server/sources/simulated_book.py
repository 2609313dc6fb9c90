"""Order books for a simulated market, pure: a function of the seed and of what the token's price and trades are now.

Nothing is kept between two books, so one that nobody asks for costs nothing, and how often one is asked for changes
nothing. Prices lie on a grid around the price; the amount at a price is the same whenever the price comes back to it,
but for one level in eight, which each trade changes.
"""

from decimal import Decimal
from hashlib import blake2b
from typing import Final, NamedTuple

from tokenwire_server.market.book import MAX_DEPTH_LEVELS, BookSnapshot, Level
from tokenwire_server.market.decimals import EXACT

__all__ = ["LEVELS", "SimulatedQuote", "simulated_book"]

LEVELS: Final = MAX_DEPTH_LEVELS  # of each side

_CHANGED_EVERY: Final = 8  # one level in so many is another one after a trade
_GRID_DIGITS: Final = 5  # significant digits of the prices on the grid, when the market opens
_LEAST, _MOST = 2_000, 900_000  # amounts, in units of the token's trades

_MASK: Final = (1 << 64) - 1
_MIX_1, _MIX_2, _MIX_3 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class SimulatedQuote(NamedTuple):
    """What a simulated token's book depends on.

    ``price`` and ``start`` (when the market opened) are in units of 10^``exponent``, amounts in units of
    10^``size_exponent``; ``traded`` counts the token's trades.
    """

    address: str
    price: int
    start: int
    exponent: int
    size_exponent: int
    traded: int


def simulated_book(seed: int, quote: SimulatedQuote, time_ms: int) -> BookSnapshot:
    """The book at ``time_ms`` (Unix ms): the price lies between the best bid and the best ask, one grid step apart."""
    text = f"{seed}:{quote.address}".encode()
    key = int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
    step = 10 ** max(0, len(str(quote.start)) - _GRID_DIGITS)
    below = max(1, quote.price // step)
    bids = [_level(key, quote, step, place) for place in range(below, max(0, below - LEVELS), -1)]
    asks = [_level(key, quote, step, place) for place in range(below + 1, below + 1 + LEVELS)]
    return BookSnapshot(bids, asks, time_ms)


def _level(key: int, quote: SimulatedQuote, step: int, place: int) -> Level:
    # The amounts of neighbours change at different trades.
    generation = (quote.traded + place) // _CHANGED_EVERY
    amount = _LEAST + _mixed(key, place, generation) % (_MOST - _LEAST)
    return (
        Decimal(place * step).scaleb(quote.exponent, EXACT),
        Decimal(amount).scaleb(quote.size_exponent, EXACT),
    )


def _mixed(key: int, place: int, generation: int) -> int:
    """64 well-mixed bits, the same on every machine (the finaliser of the splitmix64 generator)."""
    bits = (key + place * _MIX_1 + generation * _MIX_2) & _MASK
    bits = ((bits ^ (bits >> 30)) * _MIX_2) & _MASK
    bits = ((bits ^ (bits >> 27)) * _MIX_3) & _MASK
    return bits ^ (bits >> 31)
