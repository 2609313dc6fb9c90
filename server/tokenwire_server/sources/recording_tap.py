"""How a source that receives frames lets them be recorded as they come."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from tokenwire_server.market.trades import Trade

__all__ = ["FrameTap", "Framed"]


class FrameTap(Protocol):
    """Hears of everything that trades are made of. Never raises."""

    def frame(self, frame: str | bytes) -> None:
        """A frame came; what it says is delivered after this."""

    def fetched(self, trades: Sequence[Trade]) -> None:
        """These trades were fetched to fill a hole, in their order; they stand in no frame."""


@runtime_checkable
class Framed(Protocol):
    """A source whose trades come in an exchange's frames."""

    @property
    def frame_format(self) -> str:
        """Whose normaliser reads them: a key of ``tape.FORMATS``."""

    def use_tap(self, tap: FrameTap) -> None:
        """Tell this of every frame; called before ``run``."""
