"""A market in which every token changes once a second, as a pure function of the time."""

import random
from typing import Any, Final

__all__ = ["Market"]

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
CHANGE_MS: Final = 1_000
"""How often a token changes."""


class Market:
    """Tokens and their values. ``begun_ms`` is the wall clock at the server's start."""

    def __init__(self, count: int, begun_ms: float, faults: frozenset[str]) -> None:
        source = random.Random(20_251_201)
        names = ["".join(source.choices(_ALPHABET, k=44)) for _ in range(count)]
        self.names: Final = tuple(names)
        self._index = {name: index for index, name in enumerate(names)}
        self._begun_ms = int(begun_ms)
        self._base = self._begun_ms << 10
        self._faults = faults

    def knows(self, name: str) -> bool:
        """Whether it is a token."""
        return name in self._index

    def place(self, name: str) -> int:
        """Its number, from 0."""
        return self._index.get(name, 0)

    def members(self, name: str, now_ms: float) -> tuple[str, ...] | None:
        """Who is in a set of tokens; ``set:top`` moves on by one token every 5 s."""
        kind, _, rest = name.removeprefix("set:").partition(":")
        if kind == "all" and not rest:
            return self.names
        if kind == "top":
            key, _, rest = rest.partition(":")
            if key not in {"volume", "volumeH1", "volumeM5", "marketCap", "price"}:
                return None
        elif kind != "new":
            return None
        if not (rest.isdecimal() and 1 <= int(rest) <= 1000) and rest:
            return None
        count = min(int(rest or 50), len(self.names))
        begin = self.step(now_ms) // 5 if kind == "top" else -count
        return tuple(self.names[(begin + place) % len(self.names)] for place in range(count))

    def admit(self, name: str) -> None:
        """Make it a token."""
        self._index.setdefault(name, len(self._index))

    def step(self, now_ms: float) -> int:
        """How many changes there were."""
        return max(0, int(now_ms - self._begun_ms) // CHANGE_MS)

    def version(self, now_ms: float) -> int:
        """Of every token."""
        if "version_falls" in self._faults:  # often, so that it has fallen whenever it is looked at again
            return self._base - max(0, int(now_ms) - self._begun_ms) // 100
        return self._base + self.step(now_ms)

    def value(self, name: str, now_ms: float, *, details: bool = False, faults: frozenset[str]) -> dict[str, Any]:
        """``data`` of a token's update."""
        index = self._index.get(name, 0)
        step = 0 if "values_frozen" in faults else self.step(now_ms)
        price: Any = f"{index + 1}.{(step * 7 + index) % 1_000_000 + 1:07d}".rstrip("0")
        if "price_as_number" in faults:
            price = float(price)
        elif "price_with_trailing_zeros" in faults:
            price += "00"
        cap: Any = str((index + 1) * 1_000_000 + step)
        volume: Any = {"h24": f"{(index + 1) * 1000 + step}.5", "h1": str((index + 1) * 40 + step), "m5": "0"}
        if "volume_as_numbers" in faults:
            volume = {name: float(text) for name, text in volume.items()}
        data: dict[str, Any] = {"address": name, "price": price, "marketCap": cap, "volume": volume}
        if "address_upper_case" in faults:
            data["address"] = name.upper()
        if "update_extra_field" in faults:
            data["symbol"] = "T"
        if details:
            data["version"] = self.version(now_ms)
            time_ms = self._begun_ms + self.step(now_ms) * CHANGE_MS
            data["sourceTime"] = time_ms // 1000 if "source_time_in_seconds" in faults else time_ms
        return data
