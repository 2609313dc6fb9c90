"""Sources of which nothing can be used any more because it all is from the future: then a clock is wrong. Pure."""

from typing import Final

__all__ = ["MAX_FROM_THE_FUTURE", "WrongClocks"]

MAX_FROM_THE_FUTURE: Final = 10  # refused in a row, and nothing taken in between


class WrongClocks:
    """Told of each verdict on a source's data."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        """Why nothing of a source can be used, by its name."""
        self._refused: dict[str, int] = {}  # in a row

    def taken(self, source: str) -> bool:
        """Something of the source was used; whether that is news."""
        self._refused.pop(source, None)
        return self.reasons.pop(source, None) is not None

    def refused(self, source: str, ahead_ms: int, whose: str = "this machine's clock") -> bool:
        """Something was so far from the future by that clock; whether a clock has been found to be wrong by it."""
        count = self._refused[source] = self._refused.get(source, 0) + 1
        if count < MAX_FROM_THE_FUTURE or source in self.reasons:
            return False
        self.reasons[source] = (
            f"all that {source} says is {ahead_ms // 1_000} s ahead of {whose}, and refused: set the clock (NTP)"
        )
        return True
