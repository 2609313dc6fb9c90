"""The tasks of the benchmark: which tokens there are, who holds which, and what changes at each tick.

Pure and seeded: the same shape gives the same bytes. A workload's ``data`` texts are exactly what the server's
encoder makes of a ``token_update``, so every server sends the same bodies. A text occurs in one tick of the cycle
only; so whoever decodes a message knows which tick it belongs to.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Final, Literal

from tokenwire_schemas.codec import encode_data
from tokenwire_schemas.messages import TokenUpdateData, Volume
from tokenwire_server.market.decimals import canonical
from tokenwire_server.sources.base58 import base58

__all__ = ["SHAPES", "Shape", "Workload", "make", "parse", "subscribe_text"]

CYCLE_TICKS: Final = 64
"""Distinct ticks. A cycle is far longer than the 32 KB window of DEFLATE, so nothing is found in it twice."""

Kind = Literal["batch", "single"]


@dataclass(frozen=True)
class Shape:
    """A task in numbers.

    ``connections`` hold ``held`` of ``tokens`` tokens each: all the same ones with ``sets`` = 1, else that many
    different sets, each drawn at random. ``changed`` tokens change per tick of ``interval_ms``. ``kind`` batch is one
    message per tick and connection, single one per changed token. ``dead`` connections never read.
    """

    name: str
    title: str
    connections: int
    tokens: int
    held: int
    changed: int
    interval_ms: int
    kind: Kind
    sets: int = 1
    dead: int = 0
    common: int = 0  # of the tokens held, how many are the same for every set
    seed: int = 1

    @property
    def ticks_per_s(self) -> float:
        """How often values change."""
        return 1000 / self.interval_ms

    @property
    def frames_per_tick(self) -> int:
        """Messages that each connection gets at each tick; with singles all that is held changes."""
        return self.held if self.kind == "single" else 1


def _shapes(*shapes: Shape) -> Mapping[str, Shape]:
    return {shape.name: shape for shape in shapes}


SHAPES: Final = _shapes(
    Shape("W1", "1 token, 20 ticks/s", 1000, 1, 1, 1, 50, "single"),
    Shape("W2", "100 tokens, one set, 30 change", 1000, 100, 100, 30, 500, "batch"),
    Shape("W2-all", "100 tokens, one set, all change", 1000, 100, 100, 100, 500, "batch"),
    Shape("W3", "100 of 1000 tokens each, 30 % change", 1000, 1000, 100, 300, 500, "batch", sets=1000),
    Shape("W4", "1000 tokens, 30 % change, 100 connections", 100, 1000, 1000, 300, 500, "batch"),
    Shape("W5", "15,000 idle, subscribed", 15_000, 1, 1, 1, 600_000, "single"),
    Shape("W6", "W2 with 5 % not reading", 1000, 100, 100, 30, 500, "batch", dead=50),
    Shape("W7", "storm: 1000 connect and subscribe 100", 1000, 100, 100, 100, 5000, "batch"),
    Shape("W7-strict", "storm, nothing negotiated", 1000, 100, 100, 100, 5000, "single"),
    Shape("W8", "15,000 connections, 1 token, 1 tick/s", 15_000, 1, 1, 1, 1000, "single"),
    Shape("W9", "100 single numbered frames per tick", 1000, 100, 100, 100, 1500, "single"),
    Shape("spec", "100 tokens, one set, all change, 5 s", 1000, 100, 100, 100, 5000, "batch"),
    Shape("spec-strict", "100 tokens, one set, all change, 5 s", 1000, 100, 100, 100, 5000, "single"),
    Shape("mixed", "100 of 1000 tokens each, all change, 5 s", 1000, 1000, 100, 1000, 5000, "batch", sets=1000),
    Shape("mixed-strict", "100 of 1000 tokens each, all change, 5 s", 1000, 1000, 100, 1000, 5000, "single", sets=1000),
    # How the cost grows: with connections, with tokens held, and with how much the sets have in common.
    *(Shape(f"C{n}", f"W2 with {n} connections", n, 100, 100, 30, 500, "batch") for n in (100, 300, 1000, 3000)),
    *(
        Shape(f"T{n}", f"{n} tokens, 30 % change", 1000, n, n, max(1, n * 3 // 10), 500, "batch")
        for n in (1, 10, 100, 1000)
    ),
    *(
        Shape(f"O{n}", f"100 tokens each, {n} in common", 1000, 1000, 100, 300, 500, "batch", sets=1000, common=n)
        for n in (0, 50, 90, 100)
    ),
)
"""Every task by its name."""


@dataclass(frozen=True)
class Workload:
    """A task made concrete. ``ticks[k % len(ticks)]`` lists the tokens that change at tick ``k``, with their data."""

    name: str
    interval_ms: int
    kind: Kind
    tokens: Sequence[str]
    sets: Sequence[Sequence[int]]
    ticks: Sequence[Sequence[tuple[int, str]]]

    def to_json(self) -> str:
        """The file that every server is given."""
        return json.dumps(asdict(self), separators=(",", ":"))

    def held_by(self, connection: int) -> frozenset[int]:
        """Token numbers of the connection with this number."""
        return frozenset(self.sets[connection % len(self.sets)])

    def expected(self, tick: int, held: frozenset[int]) -> dict[str, str]:
        """Data text by address that tick ``tick`` brings to whoever holds these tokens."""
        return {self.tokens[i]: text for i, text in self.ticks[tick % len(self.ticks)] if i in held}


def parse(text: str) -> Workload:
    """Read :meth:`Workload.to_json` back."""
    raw: dict[str, Any] = json.loads(text)
    ticks = [[(int(i), str(data)) for i, data in tick] for tick in raw["ticks"]]
    return Workload(raw["name"], raw["interval_ms"], raw["kind"], raw["tokens"], raw["sets"], ticks)


def subscribe_text(workload: Workload, which: int) -> str:
    """The subscription message of a connection that holds ``sets[which]``."""
    tokens = [workload.tokens[i] for i in workload.sets[which]]
    return json.dumps(
        {"type": "subscription", "data": {"action": "subscribe", "tokens": tokens}}, separators=(",", ":")
    )


def make(shape: Shape, cycle: int = CYCLE_TICKS) -> Workload:
    """The workload of a shape, always the same for the same shape."""
    rng = random.Random(f"{shape.name}:{shape.seed}")
    tokens = [base58(rng.randbytes(32)) for _ in range(shape.tokens)]
    sets = _sets(shape, rng)
    walks = [_Walk(address, rng) for address in tokens]
    ticks: list[list[tuple[int, str]]] = []
    for _ in range(cycle):
        changed = sorted(rng.sample(range(shape.tokens), shape.changed))
        ticks.append([(i, walks[i].step()) for i in changed])
    workload = Workload(shape.name, shape.interval_ms, shape.kind, tokens, sets, ticks)
    _check(shape, workload)
    return workload


def _sets(shape: Shape, rng: random.Random) -> list[list[int]]:
    everything = range(shape.tokens)
    if shape.sets == 1:
        return [sorted(rng.sample(everything, shape.held))]
    common = rng.sample(everything, shape.common)
    others = [i for i in everything if i not in set(common)]
    return [sorted([*common, *rng.sample(others, shape.held - shape.common)]) for _ in range(shape.sets)]


def _check(shape: Shape, workload: Workload) -> None:
    """Every connection must get the same number of messages at each tick, or arrivals could not be counted off."""
    for number, tick in enumerate(workload.ticks):
        changed = {i for i, _ in tick}
        for held in {frozenset(s) for s in workload.sets}:
            count = len(changed & held)
            if not count or (shape.kind == "single" and count != shape.held):
                raise ValueError(f"{shape.name}: tick {number} brings {count} changes to some connection")


class _Walk:
    """One token's values: small steps, as a market makes them, and no text twice."""

    def __init__(self, address: str, rng: random.Random) -> None:
        self._address = address
        self._rng = rng
        self._price = Decimal(f"{10 ** rng.uniform(-5, 2):.8g}")
        self._supply = Decimal(rng.randrange(10**6, 10**11))
        self._h24 = Decimal(rng.randrange(10**6, 10**10)) / 100
        self._seen: set[str] = set()

    def step(self) -> str:
        while True:
            rng = self._rng
            exponent = self._price.adjusted() - 7
            unit = Decimal(1).scaleb(exponent)
            self._price += (self._price * Decimal(rng.randint(-5, 5)) / 10_000).quantize(unit)
            self._h24 += Decimal(rng.randint(-5000, 20000)) / 100
            h1 = self._h24 / Decimal(rng.randint(20, 28))
            text = encode_data(
                TokenUpdateData(
                    address=self._address,
                    price=canonical(self._price),
                    market_cap=canonical((self._price * self._supply).quantize(Decimal("0.01"))),
                    volume=Volume(
                        h24=canonical(self._h24),
                        h1=canonical(h1.quantize(Decimal("0.01"))),
                        m5=canonical((h1 / Decimal(rng.randint(9, 15))).quantize(Decimal("0.01"))),
                    ),
                )
            ).decode()
            if text not in self._seen:
                self._seen.add(text)
                return text
