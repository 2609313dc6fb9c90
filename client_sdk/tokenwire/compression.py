"""permessage-deflate as the specification wants it: for messages larger than 1 KB only (I-46)."""

from collections.abc import Sequence
from typing import Final

from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
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
    ) -> PerMessageDeflate:
        """What was agreed on, with the threshold in front of it."""
        agreed = super().process_response_params(params, accepted_extensions)
        return _OnlyLarge(
            agreed.remote_no_context_takeover,
            agreed.local_no_context_takeover,
            agreed.remote_max_window_bits,
            agreed.local_max_window_bits,
            agreed.compress_settings,
        )


class _OnlyLarge(PerMessageDeflate):
    """Lets small messages pass as they are. A message that is sent in fragments is compressed whatever its size."""

    def encode(self, frame: Frame) -> Frame:
        whole = frame.fin and frame.opcode in {Opcode.TEXT, Opcode.BINARY}
        return frame if whole and len(frame.data) <= COMPRESSION_THRESHOLD_BYTES else super().encode(frame)
