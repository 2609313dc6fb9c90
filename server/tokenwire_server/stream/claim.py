"""Whose name it is: brokers answer alike when another process has taken a name over, and when a transaction of this one
took too long. So whoever takes a name says so in a record, and whoever is shut out looks there."""

import asyncio
import secrets
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from tokenwire_server.bus.port import Bus, BusError, Outgoing, Place, Record
from tokenwire_server.telemetry.logs import get_log

__all__ = ["Claim"]

_log = get_log(__name__)

FENCE_GRACE_S: Final = 2.0  # within which whoever takes a name over says so
_OWNER_BYTES: Final = 12


class _Owner(msgspec.Struct, frozen=True):
    owner: str


_owners: Final = msgspec.json.Decoder(_Owner)


class Claim:
    """Of this process on ``name``, told in the compacted topic at ``place``. ``owner`` stands for the process."""

    def __init__(self, bus: Bus, place: Place, name: str) -> None:
        self.owner: Final = secrets.token_urlsafe(_OWNER_BYTES)
        self._bus = bus
        self._place = place
        self._name = name
        self._known: int | None = None  # who had it before this offset does not matter

    async def record(self) -> Outgoing:
        """What says that the name is this process's, to be written under that name. Raises BusError."""
        if self._known is None:
            _, self._known = await self._bus.bounds(self._place)
        return Outgoing(self._place, self._key, msgspec.json.encode(_Owner(self.owner)))

    def know(self, end: int) -> None:
        """What was written before this offset was looked at, and nothing in it matters any more."""
        self._known = end

    async def read(self, end: int) -> Sequence[Record]:
        """What was written there before ``end``, and not looked at yet. Raises BusError."""
        return await self._bus.read(self._place, self._known or 0, end)

    def owners(self, records: Iterable[Record]) -> list[str]:
        """Who said in these records that the name is theirs, in order."""
        return [_owners.decode(record.value).owner for record in records if record.key == self._key]

    async def is_lost(self) -> bool:
        """Whether another process has the name by now; to be asked by whoever was shut out. Waits for the answer."""
        await asyncio.sleep(FENCE_GRACE_S)
        while True:
            try:
                _, end = await self._bus.bounds(self._place)
                owners = self.owners(await self.read(end))
                return bool(owners) and owners[-1] != self.owner
            except BusError as unknown:
                _log.warning("name in doubt", name=self._name, reason=str(unknown))
                await asyncio.sleep(FENCE_GRACE_S)

    @property
    def _key(self) -> bytes:
        return f"#claim/{self._name}".encode()
