"""A timer wheel: many coarse deadlines for the price of a dictionary entry each, no timer and no task per item."""

from typing import Generic, TypeVar

__all__ = ["Wheel"]

T = TypeVar("T")


class Wheel(Generic[T]):
    """Items by deadline, in slots of ``resolution_ms``; an item fires at the end of its slot, never early."""

    __slots__ = ("_next_slot", "_resolution_ms", "_slots")

    def __init__(self, now_ms: int, resolution_ms: int) -> None:
        self._resolution_ms = resolution_ms
        self._next_slot = now_ms // resolution_ms
        self._slots: dict[int, list[T]] = {}

    def slot(self, deadline_ms: int) -> int:
        """The slot in which ``deadline_ms`` fires."""
        return max(-(-deadline_ms // self._resolution_ms), self._next_slot)

    def add(self, slot: int, item: T) -> None:
        """Let ``item`` fire in ``slot``."""
        self._slots.setdefault(slot, []).append(item)

    def advance(self, now_ms: int) -> list[tuple[int, T]]:
        """Everything due by ``now_ms``, with its slot, in order of slots."""
        last = now_ms // self._resolution_ms
        if last < self._next_slot:
            return []
        if last - self._next_slot >= len(self._slots):
            due_slots = sorted(slot for slot in self._slots if slot <= last)
        else:
            due_slots = [slot for slot in range(self._next_slot, last + 1) if slot in self._slots]
        self._next_slot = last + 1
        return [(slot, item) for slot in due_slots for item in self._slots.pop(slot)]
