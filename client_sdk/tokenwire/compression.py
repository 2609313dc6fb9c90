"""permessage-deflate as the specification wants it: for messages larger than 1 KB only (I-46)."""

from collections.abc import Sequence
from typing import Final

from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.typing import ExtensionParameter

from tokenwire_schemas.limits import COMPRESSION_THRESHOLD_BYTES

__all__ = ["OnlyLargeFactory"]

_SETTINGS: Final = {"memLevel": 5}  # as the library's own default: little memory, and requests are small


class OnlyLargeFactory(ClientPerMessageDeflateFactory):
    """Offers permessage-deflate as the library does."""

    def __init__(self) -> None:
        super().__init__(compress_settings=_SETTINGS)

    def process_response_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> Extension:
        """What was agreed on, with the threshold in front of it."""
        return _OnlyLarge(super().process_response_params(params, accepted_extensions))


class _OnlyLarge(Extension):
    """Lets small messages pass as they are. A message that is sent in fragments is compressed whatever its size."""

    def __init__(self, inner: Extension) -> None:
        self.name = inner.name
        self._inner: Final = inner

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        return self._inner.decode(frame, max_size=max_size)

    def encode(self, frame: Frame) -> Frame:
        if (
            frame.fin
            and frame.opcode in {Opcode.TEXT, Opcode.BINARY}
            and len(frame.data) <= COMPRESSION_THRESHOLD_BYTES
        ):
            return frame
        return self._inner.encode(frame)
