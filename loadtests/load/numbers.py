"""A connection's numbers, pure: every hole and every repetition is seen."""

__all__ = ["Numbers"]


class Numbers:
    """Follows ``sequence``: each numbered message is the last plus one."""

    __slots__ = ("last",)

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def follow(self, sequence: int) -> int:
        """0 if ``sequence`` is the next; else how many are missing before it, or -1 for a repetition."""
        step = sequence - self.last - 1
        if step < 0:
            return -1
        self.last = sequence
        return step
