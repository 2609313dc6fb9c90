"""How often something was refused or doubted, by source and reason: each pair becomes the labels of a metric."""

from typing import Final

__all__ = ["MAX_REASONS", "OTHERS", "ReasonCounts"]

MAX_REASONS: Final = 1_000  # counted apart, of all sources
OTHERS: Final = ("others", "too_many_reasons")
"""What is counted together, beyond them."""


class ReasonCounts(dict[tuple[str, str], int]):
    """Counts by source and reason, of at most ``MAX_REASONS`` pairs and :data:`OTHERS`."""

    def add(self, source: str, reason: str) -> bool:
        """Count one; True for the first of its kind, which is worth a line in the log."""
        key = source, str(reason)
        if key not in self and len(self) >= MAX_REASONS:
            key = OTHERS
        count = self[key] = self.get(key, 0) + 1
        return count == 1
