"""A seeded market that never was, pure: the same seed and times give the same tokens and trades.

PEPE, DOGE, SHIB and FLOKI are always there, at addresses that depend on nothing, and trade at least every
100 ms; the others have invented names and trade at least every five seconds (both at the default rate).
Everything is computed in integers, so that the trades are the same on every machine.
"""

from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from heapq import heapify, heapreplace
from random import Random
from typing import Final

from tokenwire_server.market.book import BookSnapshot
from tokenwire_server.market.decimals import EXACT
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.sources.base58 import base58
from tokenwire_server.sources.simulated_book import SimulatedQuote, simulated_book

__all__ = ["DEFAULT_RATE", "DEFAULT_TOKENS", "MAX_RATE", "MAX_TOKENS", "Scenario", "Simulation"]

DEFAULT_TOKENS: Final = 300
MAX_TOKENS: Final = 20_000
DEFAULT_RATE: Final = 170.0  # trades a second in all, about, with the default tokens
MAX_RATE: Final = 1_000_000.0
MAX_CATCH_UP_MS: Final = 5_000  # after a longer pause (a suspended machine) what lies before is left out
BURST_EVERY_MS: Final = 10_000
BURST_LENGTH_MS: Final = 2_000
BURST_FACTOR: Final = 10
CRASH_AFTER_MS: Final = 10_000
CRASH_KEEPS_PERCENT: Final = 20  # of every price, in the end
STALL_AFTER_MS: Final = 30_000
BAD_EVERY: Final = 20  # in bad-data every twentieth trade is followed by one that must be rejected

_MAJOR_GAP_US: Final = (60_000, 100_000)  # time between two trades of one token, least and most
_LONGEST_GAP_US: Final = 5_000_000  # no token pauses longer …
_SLOWEST_US: Final = (2_000_000, _LONGEST_GAP_US)  # … and each invented one has its own longest pause in here
_UNIT_DIGITS: Final = 12  # a price is an integer of about twelve digits times a power of ten
_SHOWN_DIGITS: Final = 6

# symbol, name, price as (digits, exponent), supply
_MAJORS: Final = (
    ("PEPE", "Pepe", (118_500, -10), 420_690_000_000_000),
    ("DOGE", "Dogecoin", (172_300, -6), 147_000_000_000),
    ("SHIB", "Shiba Inu", (132_700, -10), 589_000_000_000_000),
    ("FLOKI", "Floki", (104_100, -9), 9_650_000_000_000),
)
_HEADS: Final = (
    *("BABY", "MOON", "TURBO", "MEGA", "SAFE", "DARK", "SUPER", "GIGA", "BASED", "LASER", "COSMIC", "TINY"),
    *("LUCKY", "WILD", "GOLD", "PIXEL", "ROCKET", "SLEEPY", "ANGRY", "HYPER", "ZEN", "NEON", "JOLLY", "CYBER"),
)
_TAILS: Final = (
    *("CAT", "DOG", "FROG", "APE", "INU", "PIG", "BULL", "BEAR", "WHALE", "SHARK", "PANDA", "DUCK", "GOAT"),
    *("HAMSTER", "OWL", "FOX", "WIF", "BONK", "CHAD", "WOJAK", "ELON", "TRUCK", "CORN", "TACO", "PUNK"),
)


class Scenario(StrEnum):
    """What the market goes through."""

    CALM = "calm"
    BURST = "burst"  # for 2 s in every 10 s tenfold trading
    CRASH = "crash"  # from 10 s on prices fall to a fifth
    STALLED = "stalled"  # after 30 s nothing more comes, though the source stays connected
    BAD_DATA = "bad-data"  # trades that validation must reject are mixed in


class _Coin:
    """One simulated token: an integer price that walks around an anchor, and its pace."""

    __slots__ = ("anchor", "exponent", "gap_us", "info", "price", "size_exponent", "start", "traded", "walk")

    def __init__(self, info: TokenInfo, digits: int, exponent: int, gap_us: tuple[int, int], walk: int) -> None:
        pad = _UNIT_DIGITS - _SHOWN_DIGITS
        self.info = info
        self.price = self.anchor = self.start = digits * 10**pad
        self.exponent = exponent - pad
        self.gap_us = gap_us
        self.walk = walk  # the largest step is price // walk
        # Amounts have six digits, scaled so that a trade is worth some tens to thousands of dollars.
        self.size_exponent = -(exponent + _SHOWN_DIGITS) - 2
        self.traded = 0


class Simulation:
    """The generator. ``rate`` is about how many trades a second come in all; ``tokens`` counts the four too.

    A ``rate`` below the default stretches every pause, one above shortens it. Raises ValueError for
    arguments out of range.
    """

    def __init__(
        self,
        seed: int = 0,
        tokens: int = DEFAULT_TOKENS,
        rate: float = DEFAULT_RATE,
        scenario: Scenario | str = Scenario.CALM,
        *,
        stall_after_ms: int = STALL_AFTER_MS,
    ) -> None:
        if not len(_MAJORS) <= tokens <= MAX_TOKENS:
            raise ValueError(f"tokens must be {len(_MAJORS)} to {MAX_TOKENS}, not {tokens}")
        if not 1 <= rate <= MAX_RATE:
            raise ValueError(f"rate must be 1 to {MAX_RATE:.0f} trades a second, not {rate}")
        self.scenario = Scenario(scenario)
        self.stall_after_ms = stall_after_ms
        self._seed = seed
        self._random = Random(seed)
        self._stretch_us = round(1_000_000 * DEFAULT_RATE / rate)  # a pause in us for one second of default
        self._coins = [*_majors(), *_invented(self._random, tokens - len(_MAJORS))]
        self._by_address = {coin.info.address: coin for coin in self._coins}
        self._due: list[tuple[int, int]] = []  # a heap of (time in us, index of the coin)
        self._start_ms: int | None = None
        self._made = 0

    @property
    def cadence_ms(self) -> int:
        """The longest pause of any token."""
        return max(100, _LONGEST_GAP_US * self._stretch_us // 1_000_000_000)

    def tokens(self) -> list[TokenInfo]:
        """All tokens, the four well-known ones first."""
        return [coin.info for coin in self._coins]

    @property
    def position(self) -> tuple[int, int]:
        """The seed, and how many trades were made."""
        return self._seed, self._made

    def skip(self, made: int) -> None:
        """Number trades as if ``made`` had come before, of each token: so no id comes twice."""
        self._made = made
        for coin in self._coins:
            coin.traded = made

    def traded(self, address: str) -> int:
        """How often this token has traded; its book stays the same until it does again."""
        return self._by_address[address].traded

    def book(self, address: str, time_ms: int) -> BookSnapshot:
        """This token's order book as the market stands; ``time_ms`` (Unix ms) is only its date."""
        coin = self._by_address[address]
        quote = SimulatedQuote(address, coin.price, coin.start, coin.exponent, coin.size_exponent, coin.traded)
        return simulated_book(self._seed, quote, time_ms)

    def stalled(self, now_ms: int) -> bool:
        """Whether the scenario has fallen silent by ``now_ms`` (Unix ms)."""
        if self.scenario is not Scenario.STALLED or self._start_ms is None:
            return False
        return now_ms - self._start_ms >= self.stall_after_ms

    def step(self, now_ms: int) -> list[Trade]:
        """All trades due up to ``now_ms`` (Unix ms), in order of time; the first call opens the market with
        one trade of every token. How finely time is stepped makes no difference."""
        if self._start_ms is None:
            self._start_ms = now_ms
            self._due = [(now_ms * 1_000, index) for index in range(len(self._coins))]
        if self.stalled(now_ms):
            return []
        due = self._due
        oldest_us = (now_ms - MAX_CATCH_UP_MS) * 1_000
        if due[0][0] < oldest_us:
            self._due = due = [(max(time_us, oldest_us), index) for time_us, index in due]
            heapify(due)
        until_us = now_ms * 1_000
        trades: list[Trade] = []
        while due[0][0] <= until_us:
            time_us, index = due[0]
            coin = self._coins[index]
            time_ms = time_us // 1_000
            trades.append(self._trade(coin, time_ms))
            self._made += 1
            if self.scenario is Scenario.BAD_DATA and self._made % BAD_EVERY == 0:
                trades.append(_spoiled(trades[-1], self._made // BAD_EVERY))
            heapreplace(due, (time_us + self._gap_us(coin, time_ms), index))
        return trades

    def _gap_us(self, coin: _Coin, time_ms: int) -> int:
        gap_us = self._random.randint(*coin.gap_us) * self._stretch_us // 1_000_000
        if self.scenario is Scenario.BURST and self._elapsed_ms(time_ms) % BURST_EVERY_MS < BURST_LENGTH_MS:
            gap_us //= BURST_FACTOR
        return max(gap_us, 1)

    def _elapsed_ms(self, time_ms: int) -> int:
        return time_ms - (self._start_ms or 0)

    def _trade(self, coin: _Coin, time_ms: int) -> Trade:
        random = self._random
        if self.scenario is Scenario.CRASH and self._elapsed_ms(time_ms) >= CRASH_AFTER_MS:
            coin.anchor = coin.start * CRASH_KEEPS_PERCENT // 100
        largest = coin.price // coin.walk
        pull = (coin.anchor - coin.price) // 64  # keeps the magnitude of the price for ever
        coin.price = max(coin.price + random.randint(-largest, largest) + pull, 10**_SHOWN_DIGITS)
        coin.traded += 1
        cut = len(str(coin.price)) - _SHOWN_DIGITS
        return Trade(
            address=coin.info.address,
            trade_id=str(coin.traded),
            price=Decimal(coin.price // 10**cut).scaleb(coin.exponent + cut, EXACT),
            amount=Decimal(random.randint(1_000, 999_999)).scaleb(coin.size_exponent, EXACT),
            side=Side.BUY if random.getrandbits(1) else Side.SELL,
            time_ms=time_ms,
        )


def _majors() -> list[_Coin]:
    return [
        _Coin(
            TokenInfo(base58(sha256(f"tokenwire:{symbol}".encode()).digest()), symbol, name, "solana", Decimal(supply)),
            digits,
            exponent,
            _MAJOR_GAP_US,
            walk=2_000,
        )
        for symbol, name, (digits, exponent), supply in _MAJORS
    ]


def _invented(random: Random, count: int) -> list[_Coin]:
    coins: list[_Coin] = []
    pairs = [(head, tail) for head in _HEADS for tail in _TAILS]
    random.shuffle(pairs)
    for number in range(count):
        head, tail = pairs[number % len(pairs)]
        series = number // len(pairs)
        symbol = f"{head}{tail}{series + 1 if series else ''}"  # symbols stay unique
        slowest_us = random.randint(*_SLOWEST_US)
        info = TokenInfo(
            address=base58(random.randbytes(32)),
            symbol=symbol,
            name=f"{head.title()} {tail.title()}",
            chain="solana",
            supply=Decimal(random.randint(1, 999)).scaleb(random.randint(7, 11), EXACT),
        )
        pace_us = (slowest_us // 2, slowest_us)
        exponent = random.randint(-12, -5)
        coins.append(_Coin(info, random.randint(100_000, 999_999), exponent, pace_us, walk=random.randint(200, 900)))
    return coins


def _spoiled(trade: Trade, number: int) -> Trade:
    """A trade that no validation may let pass."""
    trade_id = f"bad-{number}"
    match number % 5:
        case 0:
            return _changed(trade, trade_id, price=-trade.price)
        case 1:
            return _changed(trade, trade_id, price=Decimal(0))
        case 2:
            return _changed(trade, trade_id, amount=Decimal(f"1e{40 + number % 7}"))
        case 3:
            return _changed(trade, trade_id, price=Decimal("1e-45"))
        case _:
            return _changed(trade, trade_id, time_ms=trade.time_ms + 86_400_000)


def _changed(
    trade: Trade,
    trade_id: str,
    price: Decimal | None = None,
    amount: Decimal | None = None,
    time_ms: int | None = None,
) -> Trade:
    return Trade(
        address=trade.address,
        trade_id=trade_id,
        price=trade.price if price is None else price,
        amount=trade.amount if amount is None else amount,
        side=trade.side,
        time_ms=trade.time_ms if time_ms is None else time_ms,
    )
