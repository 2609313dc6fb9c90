"""When a room's newest state is to be sent: soon after it changed, and at most once in an interval."""

from tokenwire_server.core.plain_room import Room

__all__ = ["Pace"]


class Pace:
    """Rooms whose state has changed since it was sent. The first change after a quiet time is due at once."""

    __slots__ = ("_due", "_gap_ms")

    def __init__(self, gap_ms: int) -> None:
        self._gap_ms = gap_ms
        self._due: dict[Room, int] = {}

    def touch(self, room: Room, now_ms: int) -> bool:
        """The state of ``room`` changed; whether it had not since it was sent."""
        if room in self._due:
            return False
        self._due[room] = max(now_ms, room.paced_ms)
        return True

    def forget(self, room: Room) -> None:
        """Nobody listens there any more."""
        self._due.pop(room, None)

    def take(self, now_ms: int) -> list[Room]:
        """The rooms that are due, in the order of their first change; each is sent its newest state now."""
        taken = [room for room, due_ms in self._due.items() if due_ms <= now_ms]
        for room in taken:
            del self._due[room]
            room.paced_ms = now_ms + self._gap_ms
        return taken

    @property
    def due_ms(self) -> int | None:
        """When :meth:`take` has something next."""
        return min(self._due.values(), default=None)
